package scsi

type copyJob struct{}

var maintenanceCommands, copyCommands []command
