package store

// Breakage names a safety measure that a test leaves out, to prove that the
// power-cut test would see it missing.
type Breakage string

// Break returns o with one safety measure left out.
func Break(o Options, b Breakage) Options {
	switch b {
	case "":
	case "no sync between data and log":
		o.breakage.skipDataSync = true
	case "no sync before the superblock":
		o.breakage.skipCheckpointSync = true
	case "acknowledge before the log is durable":
		o.breakage.noDsync = true
	case "superblock without Dsync":
		o.breakage.noSuperDsync = true
	case "log data without checksums":
		o.breakage.noLogCRC = true
	case "overwrite whole regions in place":
		o.breakage.overwriteInPlace = true
	case "reuse chunks before they are free":
		o.breakage.reuseEarly = true
	case "log without the poison that writes leave":
		o.breakage.noEdges = true
	case "checkpoint without notes":
		o.breakage.noNotes = true
	case "recovery without lost versions":
		o.breakage.noVoids = true
	case "recovery without regard to higher versions":
		o.breakage.noHigher = true
	case "recovery without doubt":
		o.breakage.noDoubt = true
	default:
		panic("unknown breakage " + b)
	}
	return o
}
