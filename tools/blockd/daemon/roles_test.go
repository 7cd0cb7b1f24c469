package daemon

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"blockd.dev/raftmeta/control"
)

// refusalOf is the code with which a method refuses an empty request, or "" when it does not.
func refusalOf(t *testing.T, client *http.Client, url, method string, streams bool) string {
	t.Helper()
	kind, body := "application/json", "{}"
	if streams { // one message: no flags, its length, and itself
		kind, body = "application/connect+json", "\x00"+string(binary.BigEndian.AppendUint32(nil, 2))+"{}"
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if streams { // the first message, or the last one with the error
		head := make([]byte, 5)
		if _, err := io.ReadFull(res.Body, head); err != nil || head[0]&2 == 0 {
			return ""
		}
	}
	var told struct {
		Code  string
		Error struct{ Code string }
	}
	_ = json.NewDecoder(res.Body).Decode(&told) // of a success it has another form
	return told.Code + told.Error.Code
}

// Each method of the API, as it is served, refuses each role that must not call it, and no
// role that may look.
func TestEveryMethodOverTheNetwork(t *testing.T) {
	t.Parallel()
	n := startTestNode(t, clusterConfig(t, 1))
	a := initCluster(t, n)
	nobody := admin{ca: a.ca}.client()
	viewer, operator := certificate(t, a, n, "viewer", "vera").client(), certificate(t, a, n, "operator", "otto").client()
	refusing := map[control.Need][]*http.Client{
		control.NeedNothing: {}, control.NeedViewer: {nobody}, control.NeedOperator: {nobody, viewer}, control.NeedAdmin: {nobody, viewer, operator},
		control.NeedLocal: {nobody, viewer, operator, a.client()}, control.NeedNode: {nobody, viewer, operator, a.client()},
	}
	seen := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("blockd.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				method, streams := "/"+string(s.FullName())+"/"+string(m.Name()), m.IsStreamingServer()
				for _, c := range refusing[control.Needs[method]] {
					if code := refusalOf(t, c, n.url(), method, streams); code != "permission_denied" && code != "unauthenticated" {
						t.Errorf("%s was not refused: %q", method, code)
					}
				}
				if control.Needs[method] == control.NeedViewer {
					if code := refusalOf(t, viewer, n.url(), method, streams); code == "permission_denied" || code == "unauthenticated" || code == "unimplemented" {
						t.Errorf("%s for a viewer: %q", method, code)
					}
				}
				seen++
			}
		}
		return true
	})
	if seen != len(control.Needs) {
		t.Errorf("%d methods were called, and there are %d", seen, len(control.Needs))
	}
}
