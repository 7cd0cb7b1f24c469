package control

import (
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "blockd.dev/raftmeta/api/blockd/v1" // registers the services
	"blockd.dev/raftmeta/pki"
)

// methods are all that the API has, by the descriptors of its services.
func methods(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("blockd.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				all["/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name())] = true
			}
		}
		return true
	})
	if len(all) < 20 {
		t.Fatalf("the API has %d methods", len(all))
	}
	return all
}

// A method without a need would be refused to everybody, and a need without a
// method is a mistake in its name.
func TestEveryMethodHasANeed(t *testing.T) {
	all := methods(t)
	for m := range all {
		if Needs[m] == 0 {
			t.Errorf("%s is not in Needs: say who may call it", m)
		}
	}
	for m := range Needs {
		if !all[m] {
			t.Errorf("Needs has %s, which is no method", m)
		}
	}
}

// Reading never needs more than a viewer, and changing never less than an
// operator, whatever the table says of a method that was added.
func TestNeedsFollowTheVerb(t *testing.T) {
	open := map[string]bool{"AdmitNode": true} // its token is the credential
	for m, need := range Needs {
		verb := m[lastSlash(m)+1:]
		reads := hasPrefix(verb, "List", "Get", "Watch", "Diagnose", "Explain")
		switch {
		case open[verb]:
			if need != NeedNothing {
				t.Errorf("%s needs %v", verb, need)
			}
		case reads && need != NeedViewer:
			t.Errorf("%s only looks, and needs %v", verb, need)
		case !reads && need < NeedOperator:
			t.Errorf("%s changes something, and needs %v", verb, need)
		}
	}
}

func lastSlash(s string) int {
	at := -1
	for i := range s {
		if s[i] == '/' {
			at = i
		}
	}
	return at
}

func hasPrefix(s string, any ...string) bool {
	for _, p := range any {
		if len(s) >= len(p) && s[:len(p)] == p {
			return true
		}
	}
	return false
}

// Every method, for every kind of caller.
func TestWhoMayCallWhat(t *testing.T) {
	viewer, operator, admin := Caller{Actor: "v", Role: pki.RoleViewer}, Caller{Actor: "o", Role: pki.RoleOperator}, Caller{Actor: "a", Role: pki.RoleAdmin}
	local, nobody, node := Caller{Actor: "local:0", Role: pki.RoleAdmin, Local: true}, Caller{Actor: "1.2.3.4:5"}, Caller{Actor: "node:n", Node: "n"}
	may := map[Need][]Caller{
		NeedNothing:  {nobody, node, viewer, operator, admin, local},
		NeedViewer:   {node, viewer, operator, admin, local},
		NeedOperator: {operator, admin, local},
		NeedAdmin:    {admin, local},
		NeedLocal:    {local},
		NeedNode:     {node},
	}
	for m, need := range Needs {
		for _, c := range []Caller{nobody, node, viewer, operator, admin, local} {
			err := need.check(c, m)
			allowed := false
			for _, a := range may[need] {
				allowed = allowed || a == c
			}
			if allowed != (err == nil) {
				t.Errorf("%s for %s: %v", m, c.Actor, err)
			}
			if err != nil && c == nobody && need != NeedLocal && need != NeedNode && connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Errorf("%s for who showed nothing: %v", m, connect.CodeOf(err))
			}
		}
	}
	if err := Needs["/blockd.v1.VolumeService/NoSuch"].check(local, "NoSuch"); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("a method that the table does not name: %v", err)
	}
}
