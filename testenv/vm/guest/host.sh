#!/bin/busybox sh
# host WORDS...: asks the host to do something, waits until it has, and prints
# its answer. Fails with the host's words when the host could not.
exec 9>/run/port-control.lock
flock 9
exec 8<>/run/port-control
echo "call $*" >&8
IFS= read -r reply <&8
case $reply in
"ok "*) echo "${reply#ok }" ;;
ok) ;;
*) echo "host: ${reply#error }" >&2; exit 1 ;;
esac
