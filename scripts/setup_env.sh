#!/usr/bin/env bash
# Makes .venv and installs into it. The Makefile calls one subcommand per step and keeps the stamps; see `make help`.
#   setup_env.sh venv             create .venv with a Python from 3.10 to 3.13 (PYTHON=... chooses it)
#   setup_env.sh install ARGS...  pip install ARGS into .venv
#   setup_env.sh native CUDA      build and install the packages in submodules/; CUDA kernels: 0, 1 or auto
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly VENV_PYTHON=$VENV/bin/python
readonly PACKAGES=(./submodules/diff-gaussian-rasterization ./submodules/simple-knn ./submodules/blendshape-ops)
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Prints why a Python cannot be used; nothing when it can.
problem_with() {
  command -v "$1" >/dev/null || { echo "not found"; return; }
  "$1" - <<'PYTHON' 2>/dev/null || echo "does not run"
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    print("is Python %d.%d" % sys.version_info[:2])
else:
    try:
        import ensurepip, venv
    except ImportError:
        print("has no venv module (on Debian and Ubuntu: apt install python3-venv)")
PYTHON
}

find_python() {
  local candidate problem report=""
  if [ -n "${PYTHON:-}" ]; then
    problem=$(problem_with "$PYTHON")
    [ -z "$problem" ] || fail "PYTHON=$PYTHON $problem; Python 3.10 to 3.13 with its venv module is needed"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.12 python3.13 python3.11 python3.10; do
    problem=$(problem_with "$candidate")
    [ -n "$problem" ] || { echo "$candidate"; return; }
    report+=$'\n'"  $candidate $problem"
  done
  fail "no Python 3.10 to 3.13 with its venv module was found; install one or name it with PYTHON=...$report"
}

make_venv() {
  # A folder without our stamp may be somebody's working environment: it is kept if its pip runs.
  if [ -z "${PYTHON:-}" ] && [ -z "$(problem_with "$VENV_PYTHON")" ] && "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then
    say "using the existing $VENV"
    return
  fi
  local python
  python=$(find_python)
  say "creating $VENV with $python ($("$python" --version))"
  "$python" -m venv --clear "$VENV"
}

build_native() {
  command -v "${CXX:-g++}" >/dev/null ||
    fail "no C++ compiler (${CXX:-g++}) was found; the extension packages are built from source (on Debian and Ubuntu: apt install g++)"
  case "$1" in
    auto) unset BUILD_CUDA ;;  # the build looks for nvcc and a GPU itself
    0 | 1) export BUILD_CUDA=$1 ;;
    *) fail "CUDA=$1: expected 0, 1 or auto" ;;
  esac
  # setuptools would pack modules that were deleted since its last build.
  rm -rf "${PACKAGES[@]/%//build}"
  # Distributions of these names hold modules of the same names as ours, and would take ours along when they are removed.
  "$VENV_PYTHON" -m pip uninstall -qq -y diff-gaussian-rasterization simple-knn blendshape-ops
  local package number=0
  for package in "${PACKAGES[@]}"; do
    number=$((number + 1))
    say "building extension package $number of ${#PACKAGES[@]} from source: ${package##*/} (with CUDA kernels: minutes)"
    "$VENV_PYTHON" -m pip install -qq --no-build-isolation --no-deps --force-reinstall "$package"
  done
  if compgen -G "$VENV/lib/python3*/site-packages/*/_native_cuda.so" >/dev/null; then
    say "the CUDA kernels were built"
  else
    say "the CUDA kernels were not built (they are where nvcc and a GPU are found, or with CUDA=1)"
  fi
}

case "${1:-}" in
  venv) make_venv ;;
  install) shift; "$VENV_PYTHON" -m pip install "$@" ;;  # pip names each package and shows how far a download is
  native) build_native "$2" ;;
  *) fail "usage: setup_env.sh venv | install ARGS... | native auto|0|1" ;;
esac
