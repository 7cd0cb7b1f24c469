// Command testenv runs the test environments by hand.
//
//	testenv vm run SCRIPT     runs a shell script in a VM with real initiators
//	testenv cluster up        builds a cluster of nodes in network namespaces
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
	root := &cobra.Command{
		Use:           "testenv",
		Short:         "Test environments for blockd",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(vmCommand(), clusterCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		os.Exit(1)
	}
}
