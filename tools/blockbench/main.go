// Command blockbench measures and loads block storage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "blockbench:", err)
		var data dataError
		if errors.As(err, &data) {
			os.Exit(exitData)
		}
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "blockbench",
		Short:         "Measures and loads block storage",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newISCSICommand(), newNVMeCommand(), newVerifyCommand(), newPumpCommand(), newStoreCommand(), newNetCommand(), newSuiteCommand())
	return root
}
