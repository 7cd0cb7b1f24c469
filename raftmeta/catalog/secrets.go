package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/pki"
)

// The secrets of hosts are sealed by the cluster key before they get into a
// command, so that neither the log nor a snapshot, a backup or a state in
// memory has them in the clear. Unseal opens them where somebody logs in.
//
// The state machine can't look into them. So who seals also checks, what the
// host has already included; the command then names the revision of the
// secrets that were looked at, and is refused when they have changed since.

// sealedMax bounds a sealed secret, in bytes.
const sealedMax = 1 << 10

// secretLabel says where a secret belongs, so that it can't be moved to
// another host or another use.
func secretLabel(host ID, use string) string { return "host/" + host.String() + "/" + use }

// secretSlots returns the secrets of a host: the clear text, and its sealed form.
func (h *Host) secretSlots() []secretSlot {
	return []secretSlot{
		{"chap", &h.Chap.Secret, &h.Chap.Sealed},
		{"mutual", &h.Mutual.Secret, &h.Mutual.Sealed},
		{"dhchap", &h.DHChap.Key, &h.DHChap.SealedKey},
		{"dhchap-controller", &h.DHChap.ControllerKey, &h.DHChap.SealedControllerKey},
	}
}

type secretSlot struct {
	use           string
	plain, sealed *string
}

// seal puts the sealed form in the place of every secret in the clear.
func (h *Host) seal(keys pki.Keyring) error {
	for _, s := range h.secretSlots() {
		if *s.plain == "" {
			continue
		}
		sealed, err := keys.Seal(secretLabel(h.ID, s.use), []byte(*s.plain))
		if err != nil {
			return err
		}
		*s.plain, *s.sealed = "", string(sealed)
	}
	return nil
}

// unseal is the inverse of seal.
func (h *Host) unseal(keys pki.Keyring) error {
	for _, s := range h.secretSlots() {
		if *s.sealed == "" {
			continue
		}
		plain, err := keys.Open(secretLabel(h.ID, s.use), []byte(*s.sealed))
		if err != nil {
			return fmt.Errorf("the secrets of host %q can't be read: %w; is cluster.keys the one of this cluster?", h.Name, err)
		}
		*s.plain, *s.sealed = string(plain), ""
	}
	return nil
}

// hasPlaintext reports whether the host has a secret that is not sealed.
func (h *Host) hasPlaintext() bool {
	for _, s := range h.secretSlots() {
		if *s.plain != "" {
			return true
		}
	}
	return false
}

// Unseal returns a copy of h whose secrets are in the clear: Chap.Secret,
// Mutual.Secret, DHChap.Key and DHChap.ControllerKey.
func (c *Catalog) Unseal(h *Host) (Host, error) {
	out := *h
	return out, out.unseal(c.keys())
}

// sealCommand seals the secrets in cmd, which is its own to change.
func (c *Catalog) sealCommand(ctx context.Context, cmd *catalogpb.Command) (*catalogpb.Command, error) {
	switch k := cmd.GetKind().(type) {
	case *catalogpb.Command_CreateHost:
		if !commandHasPlaintext(cmd) {
			return cmd, nil
		}
		id, _ := idFrom(k.CreateHost.GetId())
		h := Host{ID: id, Name: k.CreateHost.GetName(), Chap: chapFrom(k.CreateHost.GetChap()),
			Mutual: chapFrom(k.CreateHost.GetMutualChap()), DHChap: dhchapFrom(k.CreateHost.GetDhchap())}
		if err := errors.Join(h.checkSecrets(), h.seal(c.keys())); err != nil {
			return nil, err
		}
		n := cmd.GetCreateHost()
		n.Chap, n.MutualChap, n.Dhchap = chapTo(h.Chap), chapTo(h.Mutual), dhchapTo(h.DHChap)
		return cmd, nil
	case *catalogpb.Command_UpdateHost:
		if k.UpdateHost.Chap == nil && k.UpdateHost.MutualChap == nil && k.UpdateHost.Dhchap == nil {
			return cmd, nil
		}
		return c.sealUpdate(ctx, cmd)
	}
	return cmd, nil
}

// sealUpdate checks a change of secrets together with those that stay, and
// seals it.
func (c *Catalog) sealUpdate(ctx context.Context, cmd *catalogpb.Command) (*catalogpb.Command, error) {
	if err := c.log.Barrier(ctx); err != nil { // the host may be new, on another node
		return nil, failed(err)
	}
	u := cmd.GetUpdateHost()
	have := c.State().Host(u.GetName())
	if have == nil {
		return nil, refuse(ErrNotFound, "no host %q; see `blockctl host list`", u.GetName())
	}
	h, err := c.Unseal(have)
	if err != nil {
		return nil, failed(err)
	}
	changeSecrets(&h, u)
	if err := h.checkSecrets(); err != nil {
		return nil, err
	}
	sealed := Host{ID: h.ID, Chap: chapFrom(u.Chap), Mutual: chapFrom(u.MutualChap), DHChap: dhchapFrom(u.Dhchap)}
	if err := sealed.seal(c.keys()); err != nil {
		return nil, failed(err)
	}
	u.SecretsRevision = have.SecretsRevision
	if u.Chap != nil {
		u.Chap = cmp.Or(chapTo(sealed.Chap), &catalogpb.Chap{})
	}
	if u.MutualChap != nil {
		u.MutualChap = cmp.Or(chapTo(sealed.Mutual), &catalogpb.Chap{})
	}
	if u.Dhchap != nil {
		u.Dhchap = cmp.Or(dhchapTo(sealed.DHChap), &catalogpb.DhChap{})
	}
	return cmd, nil
}

// changeSecrets takes over the secrets that u changes, and reports whether there are any.
func changeSecrets(h *Host, u *catalogpb.UpdateHost) bool {
	if u.Chap != nil {
		h.Chap = chapFrom(u.Chap)
	}
	if u.MutualChap != nil {
		h.Mutual = chapFrom(u.MutualChap)
	}
	if u.Dhchap != nil {
		h.DHChap = dhchapFrom(u.Dhchap)
	}
	return u.Chap != nil || u.MutualChap != nil || u.Dhchap != nil
}

// commandSecrets returns the parts of a command that have secrets.
func commandSecrets(cmd *catalogpb.Command) ([]*catalogpb.Chap, *catalogpb.DhChap) {
	switch k := cmd.GetKind().(type) {
	case *catalogpb.Command_CreateHost:
		return []*catalogpb.Chap{k.CreateHost.GetChap(), k.CreateHost.GetMutualChap()}, k.CreateHost.GetDhchap()
	case *catalogpb.Command_UpdateHost:
		return []*catalogpb.Chap{k.UpdateHost.GetChap(), k.UpdateHost.GetMutualChap()}, k.UpdateHost.GetDhchap()
	}
	return nil, nil
}

func commandHasPlaintext(cmd *catalogpb.Command) bool {
	chaps, dhchap := commandSecrets(cmd)
	for _, c := range chaps {
		if c.GetSecret() != "" {
			return true
		}
	}
	return dhchap.GetKey() != "" || dhchap.GetControllerKey() != ""
}

// blankSealed makes a command the same whenever it was sealed: a sealed value
// differs each time. The price is that a request id that comes again with
// another secret is taken for a repetition.
func blankSealed(cmd *catalogpb.Command) {
	blank := func(b *[]byte) {
		if len(*b) > 0 {
			*b = []byte("sealed")
		}
	}
	chaps, dhchap := commandSecrets(cmd)
	for _, c := range chaps {
		if c != nil {
			blank(&c.Sealed)
		}
	}
	if dhchap != nil {
		blank(&dhchap.SealedKey)
		blank(&dhchap.SealedControllerKey)
	}
	if u := cmd.GetUpdateHost(); u != nil {
		u.SecretsRevision = 0
	}
}
