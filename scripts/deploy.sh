#!/usr/bin/env bash
# Puts CRD, RBAC and the operator into the cluster that KUBECONFIG names.
# The local cluster gets the images of this checkout, any other those of deploy/kustomize/base.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$KUBECONFIG" != "$PWD/.local/kubeconfig" ]; then
    kubectl apply --server-side -k deploy/kustomize/base
    exec kubectl -n llm-operator-system rollout status deployment/llm-operator --timeout=180s
fi
if [ "$(python3 -m tests.cluster status --provider)" = kwok ]; then
    kubectl apply --server-side -f crds/llmdeployments.yaml
    echo "NOT DEPLOYED: the nodes of this cluster are simulated, so the operator cannot run in a pod here."
    echo "Run it as a process: KUBECONFIG=$KUBECONFIG LLMOP_LEADER_ELECTION=false .venv/bin/python -m llm_operator"
    exit
fi
python3 -m tests.images build
mapfile -t archives < <(python3 -c '
import json
for image in json.load(open(".local/images/images.json")).values():
    print(image["archive"])')
python3 -m tests.cluster load "${archives[@]}"
python3 -m tests.images kustomize
kubectl apply --server-side -k .local/deploy
kubectl -n llm-operator-system rollout status deployment/llm-operator --timeout=180s
