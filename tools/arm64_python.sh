#!/usr/bin/env bash
# An arm64 Python of Debian's with the packages that the kernels' tests need, to be run by qemu-user: no arm64 machine,
# no change to this one. Afterwards FOLDER/python is that interpreter, also for children that run sys.executable;
# QEMU_CPU chooses the processor (`qemu-aarch64 -cpu help`).
#
#   tools/arm64_python.sh FOLDER
#
# Exit code 3, after one line, if something that it takes is not to be had here.
set -euo pipefail

[[ $# -eq 1 ]] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
missing() {
  echo "$*"
  exit 3
}

for tool in qemu-aarch64 apt-get dpkg-deb python3; do
  command -v "$tool" >/dev/null || missing "no $tool on this machine"
done

# apt with a state of its own, in which nothing is installed: a root would be changed otherwise.
apt=$folder/apt
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State=$apt/state"
  -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
packages=(python3-minimal libpython3-stdlib libpython3-dev libstdc++6)
apt-get "${options[@]}" -qq update >"$apt/log" 2>&1 &&
  apt-get "${options[@]}" -qq -y -d --no-install-recommends install "${packages[@]}" >>"$apt/log" 2>&1 ||
  missing "apt-get cannot download arm64 packages of Python here: $(tail -n 1 "$apt/log")"
for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
[[ -e $folder/root/lib ]] || ln -s usr/lib "$folder/root/lib"  # the package that has this link is not among them
rm -r "$apt"

interpreter=$(readlink "$folder/root/usr/bin/python3")
cat >"$folder/python" <<EOF
#!/bin/sh
exec qemu-aarch64 -0 "$folder/python" -L "$folder/root" -E PYTHONHOME="$folder/root/usr" \\
  "$folder/root/usr/bin/$interpreter" "\$@"
EOF
chmod +x "$folder/python"

version=$("$folder/python" -c 'import sys; print(".".join(map(str, sys.version_info[:2])))')
python3 -m venv "$folder/pip"
"$folder/pip/bin/pip" install -qq --target "$folder/site" --python-version "$version" --only-binary=:all: \
  --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
  numpy gguf sentencepiece jinja2 typer prompt-toolkit ml-dtypes pybind11 pytest pytest-xdist hypothesis ||
  missing "pip cannot download arm64 wheels for Python $version here"
