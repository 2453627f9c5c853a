#!/bin/sh
# Gathers what is released: the source as committed, the modules it is built from, and their licences. Run it in a clone, then:
#   orrery run examples/release-check --inputs examples/release-check/input/inputs.json
set -eu
cd "$(dirname "$0")"
top=$(git rev-parse --show-toplevel)
rm -rf input
mkdir -p input/licences
git -C "$top" archive --format=tar --output="$PWD/input/source.tar" HEAD
(cd "$top" && go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/orrery) | sort -u > input/modules.found
while read -r module version dir; do
  printf '%s %s\n' "$module" "$version" >> input/modules.txt
  for name in LICENSE LICENSE.txt LICENSE.md LICENCE COPYING LICENSE-APACHE-2.0.txt; do
    if [ -f "$dir/$name" ]; then
      to="input/licences/$(printf '%s' "$module" | tr '/' '!')"
      mkdir -p "$to"
      cp "$dir/$name" "$to/LICENSE"
      chmod u+w "$to/LICENSE"
      break
    fi
  done
done < input/modules.found
rm input/modules.found
sum=$(sha256sum input/source.tar | cut -d' ' -f1)
printf '{"version": "%s", "source": "%s"}\n' "$(git -C "$top" describe --always --dirty)" "$sum" > input/inputs.json
echo "collected $(wc -l < input/modules.txt) modules; source.tar $sum"
