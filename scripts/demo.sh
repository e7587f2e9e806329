#!/usr/bin/env bash
# The main job, from nothing to an answer: see `make demo` in the README.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
background=()
log=$(mktemp)
trap 'rm -f "$log"; for pid in "${background[@]}"; do kill "$pid" 2>/dev/null || true; done' EXIT

step() { printf '\n==> [%3d s] %s\n' $((SECONDS - started)) "$*"; }

# Waits until the file `$1` has a line that matches `$2`; prints the number at the end of the match.
line_of() {
    for _ in $(seq 100); do
        if match=$(grep -oEm1 "$2" "$1"); then
            grep -oE '[0-9]+$' <<<"$match"
            return
        fi
        sleep 0.1
    done
    cat "$1" >&2
    return 1
}

provider=$(python3 -m tests.cluster status --provider)
if [ "$provider" = kwok ]; then
    step "The nodes are simulated: the operator runs as a process, and no pod can answer"
    LLMOP_HEALTH_PORT=0 LLMOP_SERVER_IMAGE=simulated .venv/bin/python -m llm_operator >.local/operator.log 2>&1 &
    background+=($!)
fi

step "kubectl apply -f examples/mock.yaml"
kubectl apply -f examples/mock.yaml
step "kubectl wait --for=condition=Ready llmdeployment/triage"
if ! kubectl wait --for=condition=Ready llmdeployment/triage --timeout=180s; then
    kubectl describe llmdeployment triage
    exit 1
fi

step "kubectl get llmdeployments"
kubectl get llmdeployments

if [ "$provider" = kwok ]; then
    step "POST /triage to a server process on this machine, NOT to a pod"
    LISTEN_PORT=0 .venv/bin/python -m inference_server >"$log" 2>&1 &
    background+=($!)
    port=$(line_of "$log" '"port": ?[0-9]+')
    if ! curl --silent --show-error --fail --retry 50 --retry-delay 1 --retry-all-errors --max-time 60 \
        "http://127.0.0.1:$port/readyz" >/dev/null 2>&1; then
        cat "$log"
        exit 1
    fi
else
    step "kubectl port-forward service/triage, then POST /triage"
    kubectl port-forward service/triage :8002 >"$log" 2>&1 &
    background+=($!)
    port=$(line_of "$log" '127\.0\.0\.1:[0-9]+')
fi
curl --silent --show-error --fail-with-body "http://127.0.0.1:$port/triage" \
    -H 'Content-Type: application/json' \
    -d '{"patient_mrn": "MRN-001", "query": "What are my current medications?"}' | python3 -m json.tool

step "Done. The cluster stays up: export KUBECONFIG=$KUBECONFIG; remove it with make cluster-down"
