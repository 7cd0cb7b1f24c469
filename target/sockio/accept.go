package sockio

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// acceptPause is how long Accept waits when there is no room for a connection,
// be it file descriptors or memory.
const acceptPause = 10 * time.Millisecond

// Accept gives every connection that comes on ln to take, without delay of
// small segments, until stop is closed, whereupon it returns nil, or ln fails.
// Whoever closes stop closes ln then.
func Accept(ln net.Listener, stop <-chan struct{}, take func(*net.TCPConn)) error {
	for {
		nc, err := ln.Accept()
		select {
		case <-stop:
			if err == nil {
				_ = nc.Close()
			}
			return nil
		default:
		}
		var ne net.Error
		switch {
		case errors.As(err, &ne) && ne.Temporary(): //nolint:staticcheck // EMFILE and ECONNABORTED
			select {
			case <-time.After(acceptPause):
				continue
			case <-stop:
				return nil
			}
		case err != nil:
			return err
		}
		tcp, ok := nc.(*net.TCPConn)
		if !ok {
			_ = nc.Close()
			return fmt.Errorf("connections are %T: use a TCP listener", nc)
		}
		_ = tcp.SetNoDelay(true) // one that fails here fails its first read too
		take(tcp)
	}
}
