#!/usr/bin/env bash
# Builds a Docker image with PostgreSQL from Debian's packages, for machines that reach no container registry.
#
#   postgres-image.sh [IMAGE]        IMAGE: name:tag, by default unanimity-postgres:local
#
# Needs root, a Debian-like system and a Docker engine that answers. About a minute the first time; nothing to do when
# the image exists. The image follows the conventions of the official one (POSTGRES_USER, POSTGRES_PASSWORD,
# POSTGRES_DB; arguments after the image's name go to `postgres`), so that the tests run either of the two.
set -euo pipefail
image=${1:-unanimity-postgres:local}
docker image inspect "$image" >/dev/null 2>&1 && exit 0

if ! command -v debootstrap >/dev/null; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends debootstrap
fi

# The release and the mirror that this machine's own apt uses.
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
[ -n "$mirror" ] || mirror=$(awk '/^deb / {print $2; exit}' /etc/apt/sources.list)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=postgresql "$codename" "$root" "$mirror" >"$root.log" 2>&1 || {
  tail -n 30 "$root.log" >&2
  exit 1
}
rm -f "$root.log"

cat >"$root/usr/local/bin/entrypoint" <<'ENTRYPOINT'
#!/bin/bash
set -euo pipefail
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
user=${POSTGRES_USER:-postgres}
db=${POSTGRES_DB:-$user}
[ "${1:-postgres}" = postgres ] && shift || true
if [ ! -s "$data/PG_VERSION" ]; then
  install -d -o postgres -g postgres -m 700 "$data"
  printf '%s' "${POSTGRES_PASSWORD:-postgres}" >/run/pw && chown postgres /run/pw
  su postgres -c "$bin/initdb -D $data -U $user --pwfile=/run/pw --auth=scram-sha-256 --encoding=UTF8" >/dev/null
  rm /run/pw
  echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
  if [ "$db" != postgres ]; then
    export PGPASSWORD="${POSTGRES_PASSWORD:-postgres}"
    su postgres -c "$bin/pg_ctl -D $data -w -o \"-c listen_addresses=''\" start" >/dev/null
    su postgres -c "PGPASSWORD='$PGPASSWORD' $bin/createdb -h /var/run/postgresql -U $user $db"
    su postgres -c "$bin/pg_ctl -D $data -m fast -w stop" >/dev/null
  fi
  echo 'PostgreSQL init process complete; database system is ready to accept connections'
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$bin/postgres" -D "$data" -c listen_addresses='*' "$@"
ENTRYPOINT
chmod +x "$root/usr/local/bin/entrypoint"

tar -C "$root" --exclude=./var/cache/apt --exclude=./usr/share/doc -c . |
  docker import --change 'ENTRYPOINT ["/usr/local/bin/entrypoint"]' --change 'CMD ["postgres"]' --change 'EXPOSE 5432' - "$image" >/dev/null
docker image inspect "$image" --format 'built {{index .RepoTags 0}}'
