# shellcheck shell=bash
# The stages of .ci/run. Each runs in the copy of the tree, in a subshell; $work is the temporary folder.

# What git would see, so that no build output of the developer's tree leaks in. The fixtures beside it are linked.
copy_tree() {
  local from=$1 to=$2
  mkdir -p "$to"
  if git -C "$from" rev-parse --git-dir >/dev/null 2>&1; then
    (cd "$from" && git ls-files -z --cached --others --exclude-standard |
      while IFS= read -r -d '' file; do if [[ -e $file ]]; then printf '%s\0' "$file"; fi; done |
      tar --null --files-from=- -cf -) | tar -C "$to" -xf -
  else
    tar -C "$from" --exclude=.venv --exclude=build -cf - . | tar -C "$to" -xf -
  fi
  [[ ! -d $from/../shared ]] || ln -s "$(cd "$from/../shared" && pwd)" "$to/../shared"
}

# The command in README.md under the mark `<!-- NAME -->`.
readme_command() {
  awk -v mark="<!-- $1 -->" '
    $0 == mark { found = 1; next }
    found && /^```/ { if (inside) exit; inside = 1; next }
    inside { print }' README.md
}

# A virtual environment with the development tools and a wheel built with warnings as errors, made once. It has what
# building needs, so that another install finds all compiled: in an environment of its own it would start afresh.
dev_venv() {
  [[ ! -x $work/dev/bin/ruff ]] || return 0
  python3 -m venv "$work/dev"
  "$work/dev/bin/pip" install -qq scikit-build-core pybind11 gguf numpy cmake ninja
  dev_install '.[dev]'
}
dev_install() {
  "$work/dev/bin/pip" install -qq --no-build-isolation -C build-dir="$work/build" -C cmake.define.PYGROK_WERROR=ON "$@"
}

stage_readme() {
  local command
  command=$(readme_command test-command)
  [[ -n $command ]] || { echo "README.md has no command under <!-- test-command -->"; return 1; }
  echo "$command"
  bash -euo pipefail -c "$command"
  rm -rf .venv
}

stage_style() {
  dev_venv
  "$work/dev/bin/ruff" check --output-format concise .
  "$work/dev/bin/ruff" format --check --output-format concise .
  find csrc -name '*.h' -o -name '*.cc' | xargs "$work/dev/bin/clang-format" --style=file:csrc/.clang-format \
    --dry-run --Werror
}

stage_types() {
  dev_venv
  # Of the installed wheel, from elsewhere: in the tree, mypy would not see pygrok.quantize.
  (cd "$work" && "$work/dev/bin/mypy" --config-file pygrok/pyproject.toml --strict -p pygrok)
  tools/check_symbols.sh "$work/build"
}

stage_editable() {
  dev_venv
  dev_install -e .
  "$work/dev/bin/python" -c 'import pygrok, pygrok.quantize; print(pygrok.__version__, pygrok.quantize.__file__)'
  "$work/dev/bin/pygrok" --version
}

stage_sanitize() {
  # Under the sanitizers the tests run the portable table and the newest (conftest.py): no time for the others.
  dev_venv
  local unchecked
  unchecked=$(cd "$work" && dev/bin/python -c 'from pygrok import _core
print(*sorted(set(_core.compiled_isas()[1:]) - {_core.supported_isas()[-1]}), sep=";")')
  python3 -m venv "$work/asan"
  "$work/asan/bin/pip" install -qq '.[test]' -C cmake.define.PYGROK_SANITIZE=ON \
    -C cmake.define.PYGROK_UNCHECKED_ISAS="$unchecked"
  # libstdc++ too: the sanitizer looks up the C++ runtime's throw at start, before Python loads the extension.
  local preload
  preload=$(for lib in libasan.so libubsan.so libstdc++.so; do readlink -f "$(g++ -print-file-name=$lib)"; done)
  # Suites that are about Python, and would spend their time there.
  local suite ignored=()
  for suite in bench_paging chat chat_files chat_template cli cli_chat cli_measure cli_paging evaluation expert_cache \
    experts_command fit generate imatrix_files output_paths plan plan_command quantize_cli quantize_resume \
    quantize_split readme route_trace sampling source_metadata tokenizer; do
    ignored+=("--ignore=tests/test_$suite.py")
  done
  # Python itself keeps memory until exit; leaks are not looked for.
  env LD_PRELOAD="${preload//$'\n'/:}" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    PYGROK_SANITIZED=1 "$work/asan/bin/pytest" -q -p no:cacheprovider "${ignored[@]}"
}

# For arm64: everything is compiled, and the kernels are tested on an emulated processor where Python for it can be had.
stage_cross() {
  if ! command -v aarch64-linux-gnu-g++ >/dev/null; then
    echo "skipped: no aarch64-linux-gnu-g++ on this machine"
    return 0
  fi
  local arm=$work/arm64 status=0
  tools/arm64_python.sh "$arm" || status=$?
  [[ $status -eq 0 || $status -eq 3 ]] || return "$status"
  python3 -m venv "$work/tools"
  "$work/tools/bin/pip" install -qq cmake ninja pybind11 gguf
  local python=$work/tools/bin/python target=grok_core options=()
  if [[ $status -eq 0 ]]; then
    python=$arm/python target=_core
    options=(-DPython_INCLUDE_DIR="$(echo "$arm"/root/usr/include/python3*)"
      -DCMAKE_CXX_FLAGS="-idirafter $arm/root/usr/include")
    export PYTHONPATH=$arm/site
  fi
  export PATH="$work/tools/bin:$PATH"
  cmake -S . -B "$work/cross" -G Ninja "${options[@]}" \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DSKBUILD_PROJECT_NAME=pygrok -DSKBUILD_PROJECT_VERSION=0.0.0 -DPYGROK_WERROR=ON -DPython_EXECUTABLE="$python" \
    -Dpybind11_DIR="$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())')" >/dev/null
  cmake --build "$work/cross" --target "$target" | tail -n 1
  tools/check_symbols.sh "$work/cross"
  if [[ $status -ne 0 ]]; then
    echo "compiled for arm64, not tested: see above"
    return 0
  fi
  cp -r pygrok "$arm/site/"
  cp -r quantize "$arm/site/pygrok/"
  cp "$work"/cross/_core*.so "$arm/site/pygrok/"
  test_arm64 "$arm/python"
}

# Which tables emulated processors offer; then the kernels' tests on the one that has all. The portable table is tested
# elsewhere; here it is what the others are compared with, bit by bit. Emulation is slow: the longest test leaves out
# neon_dotprod, which shares all but the dot product with neon and decoding with neon_i8mm.
test_arm64() {
  local python=$1 cpu best
  export PYTHONSAFEPATH=1  # the package beside this file has no extension
  while read -r cpu best; do
    QEMU_CPU=$cpu "$python" -c "import sys; from pygrok import _core
best, wanted = _core.kernels.select(), sys.argv[2]
print(f'{sys.argv[1]}: {best}')
sys.exit(0 if best == wanted else f'{sys.argv[1]} should run {wanted}')" "$cpu" "$best"
  done <<<"cortex-a53 neon
neoverse-n1 neon_dotprod
max neon_i8mm"
  "$python" -m pytest -q -p no:cacheprovider -n "$CMAKE_BUILD_PARALLEL_LEVEL" \
    -k "not scalar and not tolerance and not (neon_dotprod and test_matmul and not everywhere)" tests/test_kernels_*.py
}
