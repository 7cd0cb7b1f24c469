package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// context bounds a command by --timeout.
func (a *app) context(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), a.timeout)
}

// ask calls method with msg, bounded by --timeout. It fills in request_id and
// dry_run where msg has them.
func ask[Req, Res any](a *app, cmd *cobra.Command, method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), msg *Req) (*Res, error) {
	if _, err := a.link(); err != nil {
		return nil, err
	}
	a.fill(any(msg).(proto.Message).ProtoReflect())
	ctx, cancel := a.context(cmd)
	defer cancel()
	r, err := method(ctx, request(msg))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

// fill sets what every request that has it needs. The request_id makes
// repeating a request harmless.
func (a *app) fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	if f := fields.ByName("request_id"); f != nil {
		m.Set(f, protoreflect.ValueOfString(rand.Text()))
	}
	if f := fields.ByName("dry_run"); f != nil && a.dry {
		m.Set(f, protoreflect.ValueOfBool(true))
	}
}

// request wraps a message with who asks.
func request[T any](msg *T) *connect.Request[T] {
	r := connect.NewRequest(msg)
	r.Header().Set("Blockd-Actor", actor())
	return r
}

// actor is the user and machine, for the audit log.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// dryRun gives c the flag --dry-run when requests like msg can be tried, which
// is for the API to say.
func (a *app) dryRun(c *cobra.Command, msg proto.Message) *cobra.Command {
	if msg.ProtoReflect().Descriptor().Fields().ByName("dry_run") != nil {
		c.Flags().BoolVar(&a.dry, "dry-run", false, "say what would change, and change nothing")
	}
	return c
}

// changesView is what a dry run prints.
type changesView struct {
	DryRun  bool     `json:"dry_run"`
	Changes []string `json:"changes"`
}

// printChanges prints what a request that was tried would have changed.
func (a *app) printChanges(cmd *cobra.Command, changes []string) error {
	v, t := changesView{true, []string{}}, rows{}
	for _, c := range changes {
		v.Changes = append(v.Changes, c)
		t = append(t, []string{"would change: " + c})
	}
	if len(changes) == 0 {
		t = rows{{"nothing would change"}}
	}
	return a.print(cmd, v, t)
}

// confirm returns nil when the user wants what destroys something: by --yes, or
// by saying so on a terminal. what is a sentence without its full stop.
func (a *app) confirm(cmd *cobra.Command, yes bool, what string) error {
	if yes || a.dry {
		return nil
	}
	if !isTerminal(cmd.InOrStdin()) || !isTerminal(cmd.ErrOrStderr()) {
		return usageError{fmt.Errorf("%s; say --yes if you mean it", what)}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s. Type yes to go on: ", what)
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// isTerminal tells whether a person is at the other end.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// done prints that something without an answer of its own was done.
func (a *app) done(cmd *cobra.Command, what, name, did string) error {
	return a.print(cmd, map[string]string{what: name, "result": did}, rows{{what + " " + name + " " + did}})
}
