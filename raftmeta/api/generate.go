// Package api holds the control API's definition. The services and messages
// are in blockd/v1/blockd.proto; the Go code beside it is generated and
// committed, so that building needs neither protoc nor its plugins.
//
// Generating needs protoc 3.21.12 (Debian 12's protobuf-compiler); the plugins
// are pinned by the tool lines of go.mod.
package api

//go:generate sh generate.sh
