package cli

import (
	"github.com/spf13/cobra"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// names asks for the names of something.
type names func(*cobra.Command) ([]string, error)

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeArgs offers the shell what the arguments may be, one source for each.
func (a *app) completeArgs(sources ...names) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(sources) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := sources[len(args)](cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag does it for a flag of c.
func (a *app) completeFlag(c *cobra.Command, flag string, source names) {
	offer := a.completeArgs(source)
	err := c.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, to string) ([]string, cobra.ShellCompDirective) {
		return offer(cmd, nil, to)
	})
	if err != nil {
		panic(err) // no such flag: a mistake in this package
	}
}

// namesOf returns the names of what an answer lists.
func namesOf[M interface{ GetName() string }](list []M, err error) ([]string, error) {
	var out []string
	for _, m := range list {
		out = append(out, m.GetName())
	}
	return out, err
}

func (a *app) volumeNames(cmd *cobra.Command) ([]string, error) {
	r, err := ask(a, cmd, a.clients().volume.ListVolumes, &blockdv1.ListVolumesRequest{})
	return namesOf(r.GetVolumes(), err)
}

func (a *app) poolNames(cmd *cobra.Command) ([]string, error) {
	r, err := ask(a, cmd, a.clients().pool.ListPools, &blockdv1.ListPoolsRequest{})
	return namesOf(r.GetPools(), err)
}

func (a *app) hostNames(cmd *cobra.Command) ([]string, error) {
	r, err := ask(a, cmd, a.clients().host.ListHosts, &blockdv1.ListHostsRequest{})
	return namesOf(r.GetHosts(), err)
}

func (a *app) hostNamesAndAny(cmd *cobra.Command) ([]string, error) {
	list, err := a.hostNames(cmd)
	return append(list, "any"), err
}

func (a *app) nodeNames(cmd *cobra.Command) ([]string, error) {
	r, err := ask(a, cmd, a.clients().cluster.GetCluster, &blockdv1.GetClusterRequest{})
	return namesOf(r.GetCluster().GetMembers(), err)
}

func (a *app) jobNames(cmd *cobra.Command) ([]string, error) {
	r, err := ask(a, cmd, a.clients().job.ListJobs, &blockdv1.ListJobsRequest{})
	var out []string
	for _, j := range r.GetJobs() {
		out = append(out, j.GetId())
	}
	return out, err
}

func (a *app) diskNames(cmd *cobra.Command) ([]string, error) {
	r, err := ask(a, cmd, a.clients().node.ListDisks, &blockdv1.ListDisksRequest{})
	return namesOf(r.GetDisks(), err)
}
