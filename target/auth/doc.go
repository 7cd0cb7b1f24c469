// Package auth says who a host is and proves it: the secrets that hosts and
// the target show each other, CHAP for iSCSI (RFC 1994, RFC 7143 §12.1), and
// the Directory that a frontend asks what a host must present. It holds no
// connection. In-band authentication of NVMe hosts will be another Verifier
// beside CHAP, fed by the same Directory.
//
// Secrets are of type Secret, which prints as a fixed text in every format, so
// that none reaches a log.
package auth
