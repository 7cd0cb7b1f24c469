# Who may log in. The host SECURE has the user and secrets given; another
# initiator, which no host is made for, has no LUN.
step 'without authentication'
discover >/dev/null
refused login
grep -q 'authorization failure\|authentication' /tmp/refused || { cat /tmp/refused; fail 'refused for another reason'; }

step 'with a wrong secret'
setting node.session.auth.authmethod CHAP
setting node.session.auth.username "$CHAP_USER"
setting node.session.auth.password wrong-secret-1234
refused login
grep -q 'authorization failure\|authentication' /tmp/refused || { cat /tmp/refused; fail 'refused for another reason'; }

step 'with a wrong user'
setting node.session.auth.username nobody
setting node.session.auth.password "$CHAP_SECRET"
refused login

step 'with the right secret, by each algorithm'
setting node.session.auth.username "$CHAP_USER"
for algorithm in MD5 SHA1 SHA256 SHA3-256; do
    setting node.session.auth.chap_algs "$algorithm"
    login
    dev=$(disk "$LUN")
    verified "$dev" 1m
    logout
done

step 'mutual'
host mutual on >/dev/null
setting node.session.auth.username_in "$MUTUAL_USER"
setting node.session.auth.password_in wrong-secret-5678
refused login
setting node.session.auth.password_in "$MUTUAL_SECRET"
login
dev=$(disk "$LUN")
verified "$dev" 1m
logout

step 'an initiator that nobody knows sees no disk'
iscsiadm -m node -T "$IQN" --op delete
iscsiadm -m iface -I stranger --op new
iscsiadm -m iface -I stranger --op update -n iface.transport_name -v tcp
iscsiadm -m iface -I stranger --op update -n iface.initiatorname -v iqn.2026-01.dev.blockd:stranger
if iscsiadm -m discovery -t sendtargets -p "$portal" -I stranger >/tmp/found 2>&1 &&
    iscsiadm -m node -T "$IQN" -I stranger --login >/tmp/found 2>&1; then
    udevadm settle
    [ -z "$(ls /dev/disk/by-path 2>/dev/null)" ] || fail "the stranger sees $(ls /dev/disk/by-path)"
    iscsiadm -m node -T "$IQN" -I stranger --logout
fi
