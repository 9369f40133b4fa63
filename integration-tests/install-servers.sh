#!/usr/bin/env bash
# Installs Debian's packages of the servers that the tests start from binaries, where their programs are missing, and
# keeps their services off: the tests start throw-away ones of their own. Needs root and a Debian-like system; asks
# nothing.
#
#   install-servers.sh mariadb pgbouncer postgresql
set -euo pipefail
exec </dev/null

package_of() {
  case $1 in
    mariadb) echo mariadb-server ;;
    pgbouncer | postgresql) echo "$1" ;;
    *) echo "no such server: $1 (mariadb, pgbouncer or postgresql)" >&2; return 1 ;;
  esac
}

programs_of() {
  case $1 in
    mariadb) echo mariadbd mariadb-install-db ;;
    pgbouncer) echo pgbouncer ;;
    postgresql) echo initdb postgres pg_basebackup ;;
  esac
}

found() {
  local program folders=$PATH:/usr/sbin:/usr/local/sbin
  for program in /usr/lib/postgresql/*/bin; do folders=$folders:$program; done
  for program in $(programs_of "$1"); do
    PATH=$folders command -v "$program" >/dev/null || return 1
  done
}

missing=()
packages=()
for server in "$@"; do
  package=$(package_of "$server")
  if ! found "$server"; then
    missing+=("$server")
    packages+=("$package")
  fi
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi

# The services' names are masked, so that they start neither now nor at the next boot; `systemctl unmask NAME` takes
# that back. A unit that somebody put there stays as it is. PostgreSQL's package makes no cluster where it is told so.
install -d /etc/systemd/system /etc/postgresql-common
for server in "${missing[@]}"; do
  if [ "$server" = postgresql ]; then
    [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  else
    [ -e "/etc/systemd/system/$server.service" ] || ln -sf /dev/null "/etc/systemd/system/$server.service"
  fi
done
# Machines without systemd ask this program instead. Where somebody has one, it stands.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi

# A source that cannot be reached does not matter as long as the packages are found.
apt-get update -q || echo "apt-get update failed; going on with the lists that there are"
DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}"

for server in "${missing[@]}"; do
  if ! found "$server"; then
    echo "the package $(package_of "$server") is installed, and one of $(programs_of "$server") is not to be found" >&2
    exit 1
  fi
done
