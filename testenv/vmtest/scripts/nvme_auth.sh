# In-band authentication. The host has KEY, and once `host mutual` was called
# the controller has CTRL_KEY for it.
step 'without a key'
refused nvme_connect
step 'with a wrong key'
refused nvme_connect --dhchap-secret="$WRONG_KEY"
step 'with the right key'
nvme_connect --dhchap-secret="$KEY" -i 2
dev=$(nvme_disk "$UUID")
verified "$dev" 1m
nvme_disconnect
step 'both ways, the controller has no key yet'
refused nvme_connect --dhchap-secret="$KEY" --dhchap-ctrl-secret="$CTRL_KEY"
host mutual on >/dev/null
step 'both ways, a wrong key of the controller'
refused nvme_connect --dhchap-secret="$KEY" --dhchap-ctrl-secret="$WRONG_KEY"
step 'both ways'
nvme_connect --dhchap-secret="$KEY" --dhchap-ctrl-secret="$CTRL_KEY" -g -G
dev=$(nvme_disk "$UUID")
verified "$dev" 1m
step 'authenticating again on a live controller'
ctrl=$(ls -d /sys/class/nvme/nvme* | head -1)
echo "$KEY" >"$ctrl/dhchap_secret"
verified "$dev" 1m
nvme_disconnect
