"""The address of this process's machine in the cluster."""

from __future__ import annotations

import os

import psutil


def own_address() -> str:
    """The address by which the cluster knows this machine; from now on Gloo talks from there.

    Gloo would take the address of the machine's name, which often is a loopback one.
    """
    import ray

    address = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    return address
