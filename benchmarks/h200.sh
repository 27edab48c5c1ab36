#!/usr/bin/env bash
# The GPU side of the benchmarks, in phases of at most nine minutes that go on where they were.
# Made for a machine without a network and with a torch of its own: what is missing there is carried as wheels.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'HELP'
benchmarks/h200.sh PHASE [ARGUMENT...]

  wheels            with a network: download what benchmarks/h200/wheels.txt lists into .whl/ (Python 3.12, x86-64)
  install           unpack .whl/ into .site/, which every later phase looks into; nothing of the machine is changed
  data FILE...      an .npz of images, or pieces of one (python -m benchmarks.h200.pack), in one call or several
  check             versions, and a tiny lineage in every mode; the tests that want a GPU
  epoch             seconds of an epoch of ResNet-56: eager, compiled, CUDA graphs; 1 to 12 runs side by side
  steps             benchmarks/steps on the GPU: what teachers, looking up, recording and attacks cost in a step
  retrain           the study of the scale h200, all phases in their order, as far as the time goes
  retrain-N         its Nth phase alone (`phases` lists them)
  phases            the phases of the scale h200 and the minutes that they are estimated at
  adversarial       the study benchmarks/adversarial on the GPU, ResNet-20s on all that the task has of CIFAR-100, one
                    run at a time, so that its seconds count
  drift             the study benchmarks/drift on the GPU, likewise; both train what benchmarks/h200/*.json lacks
  alone             one run of each of some arms, with nothing beside it: the study's seconds
  keep              a .tar of each earlier iteration in kept/, so that the next machine need not train it again
  restore TAR...    put them back

Results lie beside the scripts (benchmarks/h200/, benchmarks/retrain/results/); if OUT is set, they are copied there.

  WORKERS=8         runs side by side           MINUTES=8.5       after which a phase stops, to go on when called again
  COMPILE=1         compile models (retrain)    TOY=1             everything at toy size on a CPU, in build/h200-toy/
HELP
}

python=${PYTHON:-python3}
minutes=${MINUTES:-8.5}
workers=${WORKERS:-8}
export PYTHONPATH="$PWD/.site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export COMPOSER_KD_CACHE=${COMPOSER_KD_CACHE:-$PWD/data/cache}
results=$PWD/benchmarks/h200 studies=$PWD/benchmarks/retrain/results scale=h200 runs=runs/retrain/h200 data=data kept=kept
if [[ -n ${TOY:-} ]]; then
    toy=${TOY_FOLDER:-$PWD/build/h200-toy}
    results=$toy/h200 studies=$toy/results scale=$toy/h200.yaml runs=$toy/runs data=$toy/data kept=$toy/kept workers=1
    mkdir -p "$results" "$studies"
fi
export RESULTS=$results
# Each run compiles with helpers of its own, which take half a gigabyte each: not a set of them for every run and core.
cores=$(nproc)
export TORCHINDUCTOR_COMPILE_THREADS=${TORCHINDUCTOR_COMPILE_THREADS:-$((cores > workers ? cores / workers : 1))}

# What was found out leaves the machine.
hand_over() {
    [[ -n ${OUT:-} ]] || return 0
    local file
    for file in "$@"; do
        [[ ! -f $file ]] || cp "$file" "$OUT/"
    done
}

study() {
    local status=0 arguments=("$scale" --workers "$workers" --minutes "$minutes" --results "$studies")
    if [[ -n ${TOY:-} ]]; then
        arguments+=(--most "${MOST:-1}")
        [[ -f $scale ]] || "$python" -m benchmarks.h200.toy "$scale"
    fi
    [[ -n ${COMPILE:-} ]] && arguments+=(run.compile=true)
    "$python" -m benchmarks.retrain "${arguments[@]}" "$@" || status=$?
    hand_over "$studies/h200.jsonl"
    return "$status"
}

# A lineage of benchmarks/NAME: what is not among its results, one run after the other.
study_of_lineage() {
    local name=$1 status=0 file=benchmarks/$1/$1.yaml
    local changes=(device=gpu data.mode=device data.subset=null model.name=resnet20)
    if [[ -n ${TOY:-} ]]; then
        file=$toy/$name.yaml changes=(device=cpu)
        [[ -f $file ]] || "$python" -m benchmarks.h200.toy "$file" "$name"
    fi
    "$python" -m benchmarks.study "$file" "${changes[@]}" --minutes "$minutes" --out "$results" || status=$?
    hand_over "$results/$name"{.json,.md,.png,-damaged.png}
    return "$status"
}

names_of_phases() {
    "$python" -c 'import sys, yaml
for phase in yaml.safe_load(open(sys.argv[1]))["phases"]: print(phase["name"])' "${1:-benchmarks/retrain/h200.yaml}"
}

# A function, so that the script is read to its end before a phase begins: it may be updated meanwhile.
main() {
    local phase=${1:-} name status
    [[ $# -eq 0 ]] || shift
    case $phase in
    wheels)
        rm -rf .whl
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
            --dest .whl --requirement benchmarks/h200/wheels.txt
        du -sh .whl
        ;;
    install)
        # --target, not the environment: its torch, torchvision and numpy stay as they are, whatever mosaicml asks for.
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target .site .whl/*.whl
        "$python" -c 'import composer, composer_kd, torch; print("composer", composer.__version__, "on torch", torch.__version__)'
        ;;
    data)
        # A whole .npz, or pieces: they wait in data/pieces until all are there.
        if [[ $# -eq 1 ]] && "$python" -c 'import numpy, sys; sys.exit("images" not in numpy.load(sys.argv[1]).files)' "$1"; then
            mkdir -p "$data" && cp "$1" "$data/cifar100.npz"
        else
            "$python" -m benchmarks.h200.pack unpack "$@" --keep "$data/pieces" --into "$data/cifar100.npz"
        fi
        if [[ -f $data/cifar100.npz && ! -d $data/cifar100 ]]; then
            "$python" -m composer_kd.cli convert "$data/cifar100.npz" "$data/cifar100"
        fi
        ;;
    check)
        status=0
        "$python" -m benchmarks.h200.check --minutes "$minutes" || status=$?
        hand_over "$results/check.json"
        if [[ -z ${TOY:-} ]]; then
            "$python" -m pytest -q tests/data/test_device.py tests/callbacks/test_waiting.py tests/runs/test_compile.py || status=1
        fi
        exit "$status"
        ;;
    epoch)
        "$python" -m benchmarks.h200.epoch --minutes "$minutes"
        hand_over "$results"/epoch.{json,md}
        ;;
    steps)
        if [[ -n ${TOY:-} ]]; then
            "$python" benchmarks/steps/steps.py --model mlp --rounds 2 --steps 4 --out "$results"
        else
            "$python" benchmarks/steps/steps.py --device gpu --model resnet56 --rounds 15 --steps 40 --out "$results"
        fi
        hand_over "$results"/steps.{json,md}
        ;;
    retrain) study "$@" ;;
    retrain-[0-9]*)
        name=$(names_of_phases | sed -n "${phase#retrain-}p")
        [[ -n $name ]] || { echo "error: $phase: there is no such phase; \`benchmarks/h200.sh phases\` lists them" >&2; exit 2; }
        study --phase "$name" "$@"
        ;;
    phases) grep -oP '^  - \{?name: \K.*' benchmarks/retrain/h200.yaml | nl -w2 -s'  ' | sed 's/}  #/  /' ;;
    adversarial | drift) study_of_lineage "$phase" ;;
    alone) workers=1 study --alone ;;
    keep)
        "$python" -m benchmarks.h200.keep "$runs" "$kept"
        hand_over "$kept"/*.tar
        ;;
    restore) "$python" -m benchmarks.h200.keep --restore "$runs" "$@" ;;
    -h | --help) usage ;;
    *)
        [[ -z $phase ]] || echo "error: $phase: there is no such phase" >&2
        usage >&2
        exit 2
        ;;
    esac
}

main "$@"
