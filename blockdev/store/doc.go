// Package store keeps the extents of many thin volumes on one disk.
package store
