"""Serve a reward over HTTP to `RemoteReward`, see docs/reward-service.md.

    python tools/serve_reward.py configs/_base_/rewards/hps.py --port 8321
    python tools/serve_reward.py HPSReward --cfg-options reward.checkpoint=vipo://tiny-hps
    python tools/serve_reward.py my_rewards.brightness

The last one is any function (pixels, prompts, metadata) that returns one number per sample. Without --key-variable
everybody who reaches the address can ask; the default address can be reached from this machine alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vipo.rewards.server import RewardServer

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import CfgOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('reward', metavar='CONFIG_OR_NAME', help='config with a reward, its name, or a dotted path')
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0 listens to every network of this machine')
    parser.add_argument('--port', type=int, default=8321, help='0 takes a free one')
    parser.add_argument('--device', help='default: the GPU where there is one')
    parser.add_argument('--max-batch', type=int, default=64, help='most samples of a request')
    parser.add_argument('--max-mb', type=int, default=256, help='most megabytes of a request')
    parser.add_argument('--key-variable', metavar='NAME', help='environment variable with the token that clients need')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    sys.path[:0] = [str(Path(args.reward).resolve().parent), os.getcwd()]
    print('vipo: loading', flush=True)
    try:
        from vipo.engine.quiet import quiet_third_parties

        quiet_third_parties()
        logging.basicConfig(level=logging.WARNING, format='%(asctime)s %(message)s', datefmt='%H:%M:%S')
        logging.getLogger('vipo.rewards').setLevel(logging.INFO)
        server = build_server(args)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('stopped before it served', file=sys.stderr)
        return 130

    def stop(number: int, frame: object) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)  # a second signal ends at once
        threading.Thread(target=server.shutdown).start()  # it waits for the loop that this interrupts

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    print(f'serving {server.info()["name"]} on {server.device} at {server.url}; Ctrl-C stops', flush=True)
    server.serve_forever()
    server.server_close()
    print('stopped; requests that were under way have been answered', flush=True)
    return 0


def build_server(args: argparse.Namespace) -> RewardServer:
    """The reward on its device and a server around it; cheap mistakes show first.

    Raises:
        ValueError: an option, the config or the address is wrong.
    """
    from vipo.engine.rewards import build_rewards, pick_device, reward_config
    from vipo.rewards.http_client import read_key
    from vipo.rewards.server import RewardServer

    key = None if args.key_variable is None else read_key(args.key_variable, 'server')
    check_address(args.host, args.port)
    device, cfg = pick_device(args.device), reward_config(args.reward, args.cfg_options)
    reward = build_rewards(cfg)['reward']
    reward.to(device)
    return RewardServer(reward, args.host, args.port, device, key, args.max_batch, args.max_mb * 10**6)


def check_address(host: str, port: int) -> None:
    """Whether a server could listen there, before a model is loaded for it.

    Raises:
        ValueError: it could not.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f'--host {host} --port {port}: {error}') from error


if __name__ == '__main__':
    sys.exit(main())
