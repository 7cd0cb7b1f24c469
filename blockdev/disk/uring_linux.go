package disk

import "errors"

func newURing(f *file, o Options) (Disk, error) {
	return nil, errors.New("io_uring is not built in")
}
