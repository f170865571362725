"""TPU VMs with gcloud alone: a script that creates them, trains on all hosts, retries, and deletes them.

The training process runs detached on each host and the connection only follows it, so a laptop may sleep: the script,
run again, follows the same attempt. Several slices are one queued resource
(cloud.google.com/tpu/docs/queued-resources).
"""

import re
import shlex

from gpt2jax.errors import RUN_AGAIN, UserError
from gpt2jax.pods.host import host_script
from gpt2jax.pods.machines import find_slice
from gpt2jax.pods.request import USER_ERROR, Rendered, Request
from gpt2jax.storage import is_bucket

SCOPES = '--scopes=https://www.googleapis.com/auth/cloud-platform'


def render(request: Request) -> Rendered:
    """The scripts. Raises UserError for what Cloud TPU VMs cannot do."""
    machine = request.machine
    if machine.kind != 'tpu':
        raise UserError('--engine=gcloud: TPUs only; for GPUs take --engine=jobset, skypilot or slurm')
    if not machine.runtime:
        raise UserError(f'--topology={machine.name}: lent by GKE alone; take --engine=jobset or xpk')
    if not is_bucket(request.workdir):
        raise UserError(f'--workdir={request.workdir}: the hosts share no disk; give gs://BUCKET/PATH')
    if not request.zone:
        raise UserError('--zone is missing: where to create the TPU, as us-west4-a')
    if find_slice(machine.accelerator_type) != machine and request.slices > 1:
        raise UserError(
            f'--topology={machine.name}: queued resources take only the usual shape of a size, '
            f'{find_slice(machine.accelerator_type).name}'
        )
    secrets = (f'export {name}="$(gcloud secrets versions access latest --secret={name})"' for name in request.secrets)
    lines = host_script(request).splitlines()
    host = '\n'.join((*lines[:4], *secrets, *lines[4:], ''))
    files = {'host.sh': host, 'follow.sh': FOLLOW.replace('@NAME@', request.name), 'launch.sh': script(request)}
    return Rendered(
        files=files,
        command=['bash', 'launch.sh'],
        install='https://cloud.google.com/sdk/docs/install, then: gcloud auth login',
        after={
            'go on': 'bash launch.sh (follows what still runs)',
            'stop': 'Ctrl-C, then: ' + shlex.join(gcloud(request, 'delete', '--quiet')),
        },
    )


def gcloud(request: Request, verb: str, *flags: str) -> list[str]:
    """The command for one slice (a TPU VM) or several (a queued resource)."""
    kind = 'tpu-vm' if request.slices == 1 else 'queued-resources'
    where = [f'--zone={request.zone}', *([f'--project={request.project}'] if request.project else [])]
    force = ['--force'] if (kind, verb) == ('queued-resources', 'delete') else []
    return ['gcloud', 'compute', 'tpus', kind, verb, request.name, *where, *force, *flags]


def shape_flags(request: Request) -> list[str]:
    """What to create: by accelerator type, or by its shape where that is not the usual one of its size."""
    machine = request.machine
    spot = ['--spot'] if request.spot else []
    if request.slices > 1:
        several = [f'--node-count={request.slices}', f'--node-prefix={request.name}']
        return [
            *several,
            f'--accelerator-type={machine.accelerator_type}',
            f'--runtime-version={machine.runtime}',
            SCOPES,
            *spot,
        ]
    if find_slice(machine.accelerator_type) == machine:
        shape = [f'--accelerator-type={machine.accelerator_type}']
    else:
        shape = [f'--type={machine.name.partition(":")[0]}', f'--topology={machine.topology}']
    return [*shape, f'--version={machine.runtime}', SCOPES, *spot]


def script(request: Request) -> str:
    """The retry loop, with the commands of this request in it."""
    one = request.slices == 1
    everyone = ['--worker=all'] if one else ['--node=all', '--worker=all']
    values = {
        '@NAME@': request.name,
        '@HOSTS@': str(request.num_hosts),
        '@RETRIES@': str(request.retries),
        '@CREATE@': shlex.join(gcloud(request, 'create', *shape_flags(request), *request.extra)),
        '@STATE@': shlex.join(gcloud(request, 'describe', f'--format=value({"state" if one else "state.state"})')),
        '@SSH@': shlex.join(gcloud(request, 'ssh', *everyone)),
        '@DELETE@': shlex.join(gcloud(request, 'delete', '--quiet')),
        '@RUN_AGAIN@': str(RUN_AGAIN),
        '@USER_ERROR@': str(USER_ERROR),
    }
    return re.sub('|'.join(values), lambda match: values[match[0]], LAUNCH)


# On a host: the first to ask for an attempt starts it, detached; whoever asks again follows it.
FOLLOW = r"""#!/bin/bash
set -u
attempt="$HOME/gpt2jax/@NAME@/attempt-$1"
if mkdir -p "$HOME/gpt2jax/@NAME@" && mkdir "$attempt" 2>/dev/null; then
  echo "$2" | base64 -d > "$attempt/host.sh"
  run='bash "$0/host.sh"; echo "$?" > "$0/new"; mv "$0/new" "$0/status"'
  setsid bash -c "$run" "$attempt" > "$attempt/log" 2>&1 < /dev/null &
  echo "$!" > "$attempt/pid"
fi
pid="$(cat "$attempt/pid")"
tail -n 100 --follow --sleep-interval=0.2 --pid="$pid" "$attempt/log"
while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done  # tail may end before the training does
echo "gpt2jax: $(hostname) ended with status $(cat "$attempt/status" 2>/dev/null || echo 137)"
"""

LAUNCH = r"""#!/bin/bash
# Creates the TPU, trains on all @HOSTS@ hosts, tries again after exit status @RUN_AGAIN@ and, up to @RETRIES@ times,
# after a failure; then deletes the TPU. After Ctrl-C the training goes on; this script, run again, follows it.
set -uo pipefail
cd "$(dirname "$0")"
wait_seconds="${GPT2JAX_WAIT_SECONDS:-30}"
failures=0
lost=0
trap 'echo "@NAME@ still runs. Follow it: bash $PWD/launch.sh. End it: @DELETE@"; exit 130' INT

new_attempt() { date +%s%N > attempt; }

fail() {
  failures=$((failures + 1))
  echo "@NAME@: $1 (failure $failures of at most @RETRIES@)"
  if [ "$failures" -gt @RETRIES@ ]; then finish 1; fi
  sleep "$wait_seconds"
}

# A connection that breaks says nothing about the training; one that never holds ends this script, not the TPU.
reconnect() {
  if [ "$1" -gt 300 ]; then lost=0; fi
  lost=$((lost + 1))
  echo "@NAME@: the connection to a host broke"
  if [ "$lost" -gt @RETRIES@ ]; then
    echo "@NAME@: no connection holds. The TPU is left as it is; delete it with: @DELETE@"
    exit 1
  fi
  sleep "$wait_seconds"
}

finish() {
  @DELETE@
  rm -f attempt
  exit "$1"
}

ensure() {
  while true; do
    case "$(@STATE@ 2>/dev/null)" in
      READY | ACTIVE) return ;;
      '')
        new_attempt
        if ! @CREATE@; then
          fail 'could not be created'
        elif [ -z "$(@STATE@ 2>/dev/null)" ]; then
          fail 'was created, and cannot be found'
        fi
        ;;
      PREEMPTED | TERMINATED | STOPPED | SUSPENDED | SUSPENDING | FAILED) @DELETE@; new_attempt ;;
      *) sleep "$wait_seconds" ;;
    esac
  done
}

[ -s attempt ] || new_attempt
while true; do
  ensure
  command="bash -c \"\$(echo $(base64 < follow.sh | tr -d '\n') | base64 -d)\" follow"
  began=$SECONDS
  @SSH@ --command="$command $(cat attempt) $(base64 < host.sh | tr -d '\n')" 2>&1 | tee last.log
  statuses="$(sed -n 's/.*gpt2jax: .* ended with status \([0-9]*\).*/\1/p' last.log)"
  if [ "$(echo "$statuses" | grep -c .)" -lt @HOSTS@ ]; then
    reconnect $((SECONDS - began))
  elif echo "$statuses" | grep -qx @USER_ERROR@; then
    finish @USER_ERROR@
  elif echo "$statuses" | grep -qx @RUN_AGAIN@; then
    new_attempt
  elif echo "$statuses" | grep -qvx 0; then
    fail "a host ended with status $(echo "$statuses" | grep -vx 0 | head -n 1)"
    new_attempt
  else
    finish 0
  fi
done
"""
