package group

func runAsNode() bool { return false }
