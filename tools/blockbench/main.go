// Command blockbench measures and loads block storage.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "blockbench:", err)
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
	root.AddCommand(newStoreCommand(), newSuiteCommand())
	return root
}
