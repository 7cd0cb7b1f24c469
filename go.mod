module blockd.dev

go 1.26
