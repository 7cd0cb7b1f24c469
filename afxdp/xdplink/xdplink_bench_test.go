package xdplink

import (
	"fmt"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/netlab"
)

// echo answers every datagram by one as long, until stop is closed. Both ends
// spin, as package rawbench's do: the difference is what a Link costs.
func echo(l link.Link, stop <-chan struct{}) error {
	rx, tx := make([]link.RxBuf, 32), make([]link.TxBuf, 32)
	for {
		n, err := l.Recv(rx)
		if err != nil {
			return err
		}
		if n == 0 {
			select {
			case <-stop:
				return nil
			default:
			}
			continue
		}
		k := l.Reserve(tx[:n])
		for i := range k {
			tx[i].Data = tx[i].Data[:len(rx[i].Data)]
			tx[i].Peer = rx[i].Peer
		}
		l.ReleaseRx(rx[:n])
		if err := l.Send(tx[:k]); err != nil {
			return err
		}
	}
}

// BenchmarkPingPong sends one datagram to and fro over a veth pair. On a machine
// that does other things too, the median says more than the mean.
func BenchmarkPingPong(b *testing.B) {
	for _, ipv6 := range []bool{false, true} {
		for _, n := range []int{22, 4200} {
			b.Run(fmt.Sprintf("IPv6=%v/%d", ipv6, n), func(b *testing.B) {
				x, y := openPair(b, newLab(b, netlab.Config{MTU: 9000}), ipv6, Config{})
				stop, ended := make(chan struct{}), make(chan error, 1)
				go func() { ended <- echo(y, stop) }()
				tx, rx := make([]link.TxBuf, 1), make([]link.RxBuf, 1)
				b.ReportAllocs()
				trips := hdrhistogram.New(1, int64(patience), 3)
				for b.Loop() {
					start := time.Now()
					if x.Reserve(tx) != 1 {
						b.Fatal("no buffer")
					}
					tx[0].Data, tx[0].Peer = tx[0].Data[:n], y.LocalAddr()
					if err := x.Send(tx); err != nil {
						b.Fatal(err)
					}
					for {
						k, err := x.Recv(rx)
						if err != nil {
							b.Fatal(err)
						}
						if k == 1 {
							break
						}
						if time.Since(start) > patience {
							b.Fatal("a datagram was lost")
						}
					}
					x.ReleaseRx(rx)
					if err := trips.RecordValue(int64(time.Since(start))); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(trips.ValueAtQuantile(50)), "p50-ns/op")
				close(stop)
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkBulk sends datagrams of 8900 bytes one way; what is lost at the
// receiver is not counted.
func BenchmarkBulk(b *testing.B) {
	const n = 8900
	x, y := openPair(b, newLab(b, netlab.Config{MTU: 9000}), false, Config{})
	tx, rx := make([]link.TxBuf, 64), make([]link.RxBuf, 64)
	b.SetBytes(n)
	b.ReportAllocs()
	stop := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			k := x.Reserve(tx)
			for i := range k {
				tx[i].Data, tx[i].Peer = tx[i].Data[:n], y.LocalAddr()
			}
			err := x.Send(tx[:k])
			if err == nil && k == 0 {
				err = x.Wait(time.Millisecond)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	got := 0
	for b.Loop() {
		if got > 0 {
			got--
			continue
		}
		for got == 0 {
			k, err := y.Recv(rx)
			if err != nil {
				b.Fatal(err)
			}
			y.ReleaseRx(rx[:k])
			if got = k; k == 0 {
				if err := y.Wait(time.Millisecond); err != nil {
					b.Fatal(err)
				}
			}
		}
		got--
	}
	close(stop)
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
