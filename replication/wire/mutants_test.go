package wire

import "testing"

// The seeds would find out if the Conn forgot one of its duties: each mutant
// must be caught within a few hundred of them.
func TestSeedsCatchMutants(t *testing.T) {
	for name, m := range map[string]mutant{
		"takes packets twice":                   {skipReplay: true},
		"delivers messages twice":               {skipReplay: true, deliverTwice: true},
		"ignores credit":                        {ignoreCredit: true},
		"doesn't ask when the tail is lost":     {forgetTail: true},
		"doesn't send lost pieces again":        {forgetLost: true},
		"delivers channels in order of arrival": {swapChannels: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= 400; seed++ {
				if w := runSeed(seed, m); w.fault != "" {
					t.Logf("caught by seed %d: %s", seed, w.fault)
					return
				}
			}
			t.Error("400 seeds found nothing wrong")
		})
	}
}
