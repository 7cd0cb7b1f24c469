package scsi

type work struct{}

func (t *Task) failIO(err error) {}

var blockCommands, provisionCommands, pageCommands, maintenanceCommands, copyCommands []command

func prepareInquiry(t *Task) sense    { return sense{} }
func inquiry(t *Task)                 {}
func prepareReportLUNs(t *Task) sense { return sense{} }
func reportLUNs(t *Task)              {}
