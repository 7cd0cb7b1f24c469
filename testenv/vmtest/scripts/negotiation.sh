# The shapes that data takes on the wire: digests, immediate and unsolicited
# data, short bursts and segments. Each is verified by checksums.
discover >/dev/null
try() { # try NAME=VALUE...
    local pair
    step "$@"
    for pair in "$@"; do setting "${pair%%=*}" "${pair#*=}"; done
    login
    dev=$(disk "$LUN")
    verified "$dev" 4m --bssplit=4k/50:64k/30:300k/20
    verified "$dev" 8m --bs=1m
    iscsiadm -m session -P 2 | sed -n '/Negotiated/,/^$/p' | tr -s '\t\n*' ' '
    echo
    logout
}
try 'node.conn[0].iscsi.HeaderDigest=CRC32C' 'node.conn[0].iscsi.DataDigest=CRC32C'
try 'node.conn[0].iscsi.HeaderDigest=CRC32C' 'node.conn[0].iscsi.DataDigest=None'
try 'node.conn[0].iscsi.HeaderDigest=None,CRC32C' 'node.conn[0].iscsi.DataDigest=CRC32C,None'
try 'node.conn[0].iscsi.HeaderDigest=None' 'node.conn[0].iscsi.DataDigest=None' \
    node.session.iscsi.InitialR2T=Yes node.session.iscsi.ImmediateData=No
try node.session.iscsi.InitialR2T=No node.session.iscsi.ImmediateData=No
try node.session.iscsi.InitialR2T=Yes node.session.iscsi.ImmediateData=Yes
try node.session.iscsi.InitialR2T=No node.session.iscsi.FirstBurstLength=4096 \
    node.session.iscsi.MaxBurstLength=16384 'node.conn[0].iscsi.MaxRecvDataSegmentLength=2048' \
    'node.conn[0].iscsi.MaxXmitDataSegmentLength=1024'
