package main

import (
	"strings"
	"testing"

	"blockd.dev/testenv/cluster"
)

// A new volume may be on any of the nodes, so each one's portal is named.
func TestTableNamesEveryPortal(t *testing.T) {
	st := cluster.Status{Nodes: []cluster.NodeStatus{
		{Place: cluster.Place{Name: "n1", ISCSI: []string{"10.77.0.1:3260"}}},
		{Place: cluster.Place{Name: "n2", ISCSI: []string{"10.77.0.2:3260"}}},
	}}
	var b strings.Builder
	if err := printTable(&b, st); err != nil {
		t.Fatal(err)
	}
	for _, n := range st.Nodes {
		if want := "iscsi-ls -s iscsi://" + n.ISCSI[0] + " "; strings.Count(b.String(), want) != 1 {
			t.Errorf("want one %q in\n%s", want, b.String())
		}
	}
}
