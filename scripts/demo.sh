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

# The example with a change that cannot work: too little memory, or, where nothing runs, a node that is not there.
broken() {
    if [ "$provider" = kwok ]; then
        cat examples/mock.yaml
        printf '  nodeSelector: {no: such-node}\n  rollout: {progressDeadlineSeconds: 15}\n'
    else
        sed 's/memory: .*/memory: 24Mi/' examples/mock.yaml
    fi
}

give_up() {
    kubectl describe llmdeployment triage
    [ "$provider" != kwok ] || tail -20 .local/operator.log
    exit 1
}

ask() {
    curl --silent --show-error --fail-with-body "http://127.0.0.1:$port/triage" \
        -H 'Content-Type: application/json' \
        -d '{"patient_mrn": "MRN-001", "query": "What are my current medications?"}' | python3 -m json.tool
}

provider=$(python3 -m tests.cluster status --provider)
if [ "$provider" = kwok ]; then
    step "The nodes are simulated: the operator runs as a process, and no pod can answer"
    LLMOP_LEADER_ELECTION=false LLMOP_METRICS_PORT=0 LLMOP_HEALTH_PORT=0 LLMOP_SERVER_IMAGE=simulated .venv/bin/python -m llm_operator >.local/operator.log 2>&1 &
    background+=($!)
fi

step "kubectl apply -f examples/mock.yaml"
kubectl apply -f examples/mock.yaml
step "kubectl wait --for=condition=Ready llmdeployment/triage"
if ! kubectl wait --for=condition=Ready llmdeployment/triage --timeout=180s; then
    give_up
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
ask

step "A change that cannot work, while the good pod serves on"
broken | diff examples/mock.yaml - || true
kubectl get llmdeployment triage --watch &
background+=($!)
sleep 1
broken | kubectl apply -f -
if ! kubectl wait --for=condition=RolledBack llmdeployment/triage --timeout=180s; then
    give_up
fi
sleep 1
kill $!

step "It was rolled back"
kubectl get llmdeployment triage \
    -o jsonpath='{range .status.conditions[?(@.type=="Ready")]}{.reason}: {.message}{"\n"}{end}' | fold -s -w 120

step "POST /triage still answers"
ask

step "Done. Take the change back, and it is Ready at once: kubectl apply -f examples/mock.yaml"
echo "What was rejected is not tried again unless spec.rollback.retryToken asks for it."
echo "The cluster stays up. To look around (kubectl of the cluster's version is in the folder of the second line):"
echo "    export KUBECONFIG=$KUBECONFIG"
echo "    export PATH=$(dirname "$(command -v kubectl)"):\$PATH"
echo "    kubectl describe llmdeployment triage"
echo "make cluster-down removes it all."
