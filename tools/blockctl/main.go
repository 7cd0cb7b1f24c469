// Command blockctl administers blockd: volumes, pools, hosts, mappings, and
// what is going on.
package main

import (
	"fmt"
	"os"

	"blockd.dev/tools/blockctl/cli"
)

func main() {
	if err := cli.New().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "blockctl:", cli.Explain(err))
		os.Exit(1)
	}
}
