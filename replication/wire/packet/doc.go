// Package packet is the codec of the node wire: packet headers, frames and
// connection parameters, as docs/TRANSPORT.md draws them. It turns bytes into
// values and back; it holds no keys, no clock and no state.
package packet
