#!/usr/bin/env bash
# Installs Debian's package mariadb-server, where its programs are missing, and keeps its service off: the tests start
# throw-away servers of their own from the binaries. Needs root and a Debian-like system; asks nothing.
set -euo pipefail
exec </dev/null

found() {
  local program
  for program in mariadbd mariadb-install-db; do
    PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$program" >/dev/null || return 1
  done
}
if found; then exit 0; fi

# The service's name is masked, so that it starts neither now nor at the next boot; `systemctl unmask mariadb` takes
# that back. A unit that somebody put there stays as it is.
install -d /etc/systemd/system
[ -e /etc/systemd/system/mariadb.service ] || ln -sf /dev/null /etc/systemd/system/mariadb.service
# Machines without systemd ask this program instead. Where somebody has one, it stands.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi

# A source that cannot be reached does not matter as long as the package is found.
apt-get update -q || echo "apt-get update failed; going on with the lists that there are"
DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends -o DPkg::Lock::Timeout=300 mariadb-server

if ! found; then
  echo "the package mariadb-server is installed, and mariadbd or mariadb-install-db is not to be found" >&2
  exit 1
fi
