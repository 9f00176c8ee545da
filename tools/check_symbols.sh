#!/usr/bin/env bash
# Fails if an instruction set's object file offers weak symbols or more than its one table. A weak symbol (a template or an
# inline function compiled with -mavx512f, say) may be the copy that the linker keeps for everybody, and then the
# whole library dies on an older processor.
#
#   tools/check_symbols.sh BUILD_DIR
set -euo pipefail

[[ $# -eq 1 && -d $1 ]] || { echo "usage: $0 BUILD_DIR" >&2; exit 2; }

checked=0
bad=0
while IFS= read -r -d '' object; do
  checked=$((checked + 1))
  weak=$(nm -C --defined-only "$object" | awk '$2 ~ /^[WVuw]$/' || true)
  strong=$(nm -C --defined-only "$object" | awk '$2 ~ /^[TDRBGS]$/' || true)
  if [[ -n $weak ]]; then
    echo "$object: weak symbols" >&2
    echo "$weak" >&2
    bad=1
  fi
  if [[ $(grep -c . <<<"$strong") -ne 1 ]]; then
    echo "$object: exports these symbols instead of one table" >&2
    echo "$strong" >&2
    bad=1
  fi
done < <(find "$1" -path '*csrc/kernels/*' \( -name 'avx*.o' -o -name 'neon*.o' -o -name 'sve*.o' \) -print0)

[[ $checked -gt 0 ]] || { echo "$0: no instruction-set objects under $1; build first" >&2; exit 1; }
[[ $bad -eq 0 ]] || exit 1
echo "$checked instruction-set objects, one table each and no weak symbols"
