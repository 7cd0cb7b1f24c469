package wire

// mutant is what tests break on purpose, to prove that the simulation would
// find out. Outside of tests all are false.
type mutant struct {
	skipReplay   bool // take packets that were taken before
	deliverTwice bool // take messages that were taken before
	ignoreCredit bool // send more than the peer granted
	forgetTail   bool // don't ask when acknowledgements are overdue
	forgetLost   bool // don't send lost pieces again
	swapChannels bool // deliver in the order of arrival
}
