package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// What a terminal is told (ECMA-48, and xterm's private modes).
const (
	screenOpen  = "\x1b[?1049h\x1b[?25l" // a screen of its own, without a cursor
	screenClose = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineEnd     = "\x1b[K\r\n" // clears what an earlier picture has there
	screenRest  = "\x1b[J"
)

// The size of a terminal that does not say it.
const (
	widthDefault  = 80
	heightDefault = 24
)

// topLive draws what nodes do until q, ^C or a signal to end. The terminal is
// as it was when it returns.
func (a *app) topLive(cmd *cobra.Command, in, out *os.File, interval time.Duration) (err error) {
	restore, err := rawInput(in)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGHUP)
	defer stop()
	cmd.SetContext(ctx)
	fmt.Fprint(out, screenOpen)
	defer func() {
		fmt.Fprint(out, screenClose)
		err = errors.Join(err, restore())
	}()
	var before look
	for ctx.Err() == nil {
		var picture rows
		now, err := a.look(cmd)
		switch {
		case err != nil: // a node that is started anew is worth waiting for
			picture = rows{{Explain(err)}}
		case before.time.IsZero():
			picture = rows{{"looking at cluster " + now.cluster.Name}}
			before = now
		default:
			width, height := sizeOf(out)
			picture = topLines(compare(before, now), width, height)
			before = now
		}
		draw(out, picture)
		if quit, err := waitForQuit(in, interval); quit || err != nil {
			return err
		}
	}
	return nil
}

func sizeOf(out *os.File) (width, height int) {
	width, height = terminalSize(out)
	if width == 0 || height == 0 {
		return widthDefault, heightDefault
	}
	return width, height
}

// draw replaces the picture on the screen, in one write so that it doesn't flicker.
func draw(out *os.File, picture rows) {
	width, height := sizeOf(out)
	var b strings.Builder
	b.WriteString(screenHome)
	for i, line := range picture {
		if i == height-1 {
			break
		}
		r := []rune(line[0])
		b.WriteString(strings.TrimRight(string(r[:min(len(r), width)]), " "))
		b.WriteString(lineEnd)
	}
	b.WriteString(screenRest + "q quits")
	fmt.Fprint(out, b.String())
}

// rawInput makes keys arrive as they are pressed, and not be shown. restore
// undoes it.
func rawInput(in *os.File) (restore func() error, err error) {
	fd := int(in.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *before
	raw.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	return func() error { return unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil
}

// ctrlC is what the key sends when it makes no signal.
const ctrlC = 3

// waitForQuit waits for the key q, at most so long. A terminal that is gone
// quits too.
func waitForQuit(in *os.File, most time.Duration) (bool, error) {
	end := time.Now().Add(most)
	for {
		left := time.Until(end)
		if left <= 0 {
			return false, nil
		}
		fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		switch {
		case errors.Is(err, unix.EINTR):
			return false, nil // a signal: the terminal may have another size
		case err != nil:
			return false, err
		case n == 0:
			return false, nil
		}
		var key [16]byte
		n, err = unix.Read(int(in.Fd()), key[:])
		if err != nil || n == 0 {
			return true, nil
		}
		for _, k := range key[:n] {
			if k == 'q' || k == 'Q' || k == ctrlC {
				return true, nil
			}
		}
	}
}
