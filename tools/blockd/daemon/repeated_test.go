package daemon

import (
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// A client whose answer was lost asks again, perhaps when another volume has the
// name: it is not told of that one, and does not wait for it.
func TestRepeatedRequestsMeanTheirOwnVolume(t *testing.T) {
	d := start(t, testConfig(t.TempDir()))
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c := blockdv1connect.NewVolumeServiceClient(h, "http://"+d.APIAddress())
	create := func(id string) (*blockdv1.Volume, error) {
		r, err := c.CreateVolume(t.Context(), connect.NewRequest(&blockdv1.CreateVolumeRequest{RequestId: id, Name: "v", SizeBytes: 1 << 30}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVolume(), nil
	}
	remove := func(id string) error {
		_, err := c.DeleteVolume(t.Context(), connect.NewRequest(&blockdv1.DeleteVolumeRequest{RequestId: id, Name: "v"}))
		return err
	}
	first, err := create("create-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remove("delete-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := create("create-1"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("of what was created and deleted: %v", err)
	}
	second, err := create("create-2")
	if err != nil || second.GetId() == first.GetId() {
		t.Fatalf("%v, %v", second, err)
	}
	if v, err := create("create-1"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("of what was created and deleted, with another in its place: %v, %v", v, err)
	}
	began := time.Now()
	if err := remove("delete-1"); err != nil {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if v := d.catalog.State().Volume("v"); v == nil || v.ID.String() != second.GetId() || v.Retired {
		t.Errorf("the second volume is %+v", v)
	}
}
