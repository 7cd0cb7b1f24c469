// Command blockctl administers blockd: volumes, pools, hosts, mappings, the
// nodes of a cluster, and what is going on.
package main

import (
	"fmt"
	"os"

	"blockd.dev/tools/blockctl/cli"
)

func main() {
	err := cli.New().Execute()
	if err != nil {
		fmt.Fprintln(os.Stderr, "blockctl:", cli.Explain(err))
	}
	os.Exit(cli.ExitCode(err))
}
