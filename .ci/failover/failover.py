#!/usr/bin/env python3
"""Three nodes of PostgreSQL under Patroni with etcd, HAProxy before them, `bluetrace server` on top, all on loopback and in a folder of
its own: kills PostgreSQL, kills a whole node, pauses a primary and wakes it, plans a switchover, each under load from `bluetrace load`.
Fails if an acknowledged record is lost or doubled, or if the service is away for longer than promised.

    failover.py BLUETRACE [--keep]

BLUETRACE is the binary. Needs PostgreSQL, etcd, HAProxy (Debian: postgresql etcd-server haproxy) and Patroni 4.1 or newer (PATRONI_BIN names
the folder of `patroni`; else it is looked for in PATH): `run` beside this file sees to that. The templates are those of deploy/patroni.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEMPLATES = ROOT / "deploy" / "patroni"
NODES = (1, 2, 3)
# seconds for which nothing may be acknowledged, by what happens
LONGEST_GAP = {"kill PostgreSQL": 10, "kill a node": 30, "pause a primary": 60, "switchover": 10}
# in Debian 12's Patroni a primary that is paused and wakes can take acknowledged rows with it
OLDEST_PATRONI = (4, 1)


def find(name, *folders):
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if not found:
        sys.exit(f"failover: no `{name}` here: install it (see the top of failover.py)")
    return found


def postgres_folder():
    newest = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return newest[-1] if newest else pathlib.Path(find("pg_ctl")).resolve().parent


def unprivileged():
    """What starts a program as somebody whom PostgreSQL accepts: it refuses root."""
    if os.geteuid() != 0:
        return [], None
    import pwd

    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user


class Ports:
    """Ports of loopback that are free now, below those that the system gives to clients."""

    def __init__(self):
        self.next = 15_000 + os.getpid() % 1_000 * 10

    def take(self):
        while True:
            self.next += 1
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", self.next))
                    return self.next
                except OSError:
                    continue


class Process:
    """A program of ours, in a group of its own, with its output in a file."""

    def __init__(self, cluster, name, command, as_user=True, **options):
        self.name, self.command, self.options = name, command, options
        self.prefix = cluster.prefix if as_user else []
        self.log = open(cluster.folder / f"{name}.log", "ab")
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [*self.prefix, *map(str, self.command)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True, **self.options,
        )

    def signal_group(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def kill(self):
        self.signal_group(signal.SIGKILL)
        self.process.wait()


class Cluster:
    def __init__(self, binary, keep):
        self.prefix, user = unprivileged()
        self.keep = keep
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bluetrace-failover-"))
        if user:
            shutil.chown(self.folder, user.pw_uid, user.pw_gid)
        self.folder.chmod(0o755)
        self.binary = binary
        self.postgres = postgres_folder()
        patroni = os.environ.get("PATRONI_BIN", "")
        self.patroni, self.etcd, self.haproxy = find("patroni", patroni), find("etcd"), find("haproxy", "/usr/sbin")
        said = subprocess.run([self.patroni, "--version"], capture_output=True, text=True, check=True).stdout
        version = tuple(int(part) for part in said.split()[1].split(".")[:2])
        if version < OLDEST_PATRONI:
            sys.exit(f"failover: {said.strip()} is too old, 4.1 is needed: older ones lose acknowledged rows when a paused primary wakes")
        ports = Ports()
        names = ("etcd_client", "etcd_peer", "rest", "postgres")
        self.ports = {node: {name: ports.take() for name in names} for node in NODES}
        self.entrance, self.server_port = ports.take(), ports.take()
        self.everything = []
        self.nodes = {}

    def template(self, file, **values):
        text = (TEMPLATES / file).read_text()
        return string.Template(text).substitute(values)

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def run(self, name, command, **options):
        process = Process(self, name, command, **options)
        self.everything.append(process)
        return process

    def start(self):
        peers = ",".join(f"etcd{node}=http://127.0.0.1:{self.ports[node]['etcd_peer']}" for node in NODES)
        clients = ",".join(f"127.0.0.1:{self.ports[node]['etcd_client']}" for node in NODES)
        for node in NODES:
            ports = self.ports[node]
            peer, client = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd_peer", "etcd_client"))
            etcd = self.run(f"etcd{node}", [
                self.etcd, "--name", f"etcd{node}", "--data-dir", self.folder / f"etcd{node}",
                "--initial-cluster", peers, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--listen-client-urls", client, "--advertise-client-urls", client,
            ])
            self.nodes[node] = [etcd]
        for node in NODES:
            ports = self.ports[node]
            settings = self.write(f"patroni{node}.yml", self.template(
                "patroni.yml", name=f"node{node}", etcd=clients, rest=f"127.0.0.1:{ports['rest']}",
                address=f"127.0.0.1:{ports['postgres']}", data=self.folder / f"postgres{node}", bin=self.postgres,
                superuser_password="a-secret-of-this-test", replication_password="another-of-this-test",
                passfile=self.folder / f"pgpass{node}", sockets=self.folder,
            ))
            self.nodes[node].append(self.run(f"patroni{node}", [self.patroni, settings], cwd=self.folder))
        backends = "\n".join(
            f"    server node{node} 127.0.0.1:{self.ports[node]['postgres']} check port {self.ports[node]['rest']}" for node in NODES
        )
        settings = self.write("haproxy.cfg", self.template("haproxy.cfg", entrance=f"127.0.0.1:{self.entrance}", servers=backends))
        self.run("haproxy", [self.haproxy, "-db", "-f", settings])
        self.wait("a primary and two replicas", self.is_whole, 90)
        self.sql("create database bluetrace")
        self.url = f"postgres://postgres:a-secret-of-this-test@127.0.0.1:{self.entrance}/bluetrace"
        self.work = self.folder / "work"
        self.work.mkdir()
        subprocess.run([self.binary, "load", "--make-accounts", "4"], cwd=self.work, check=True)
        self.run("server", [
            self.binary, "server", str(self.server_port), "--bind", "127.0.0.1", "--http", "off", "--store", self.url,
            "--credentials", "load-accounts.txt", "--max-connections-per-address", "10000",
        ], as_user=False, cwd=self.work)
        self.wait("the server listens", lambda: connects(self.server_port), 60)

    def wait(self, what, holds, seconds):
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {what}")
            time.sleep(0.2)

    def member(self, node):
        """What Patroni says of a node, or None if it says nothing."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[node]['rest']}/patroni", timeout=2) as answer:
                return json.load(answer)
        except OSError:
            return None

    def primary(self):
        primaries = [node for node in NODES if (self.member(node) or {}).get("role") in ("primary", "master")]
        return primaries[0] if len(primaries) == 1 else None

    def standbys(self):
        """The nodes that stream from the primary, with their roles."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[self.primary()]['rest']}/cluster", timeout=5) as answer:
                members = json.load(answer)["members"]
        except (KeyError, OSError):
            return {}
        return {member["name"]: member["role"] for member in members if member["state"] == "streaming"}

    def is_whole(self):
        """Whether what is acknowledged is on two nodes, and a third one follows."""
        standbys = self.standbys()
        return len(standbys) == 2 and "sync_standby" in standbys.values()

    def sql(self, statement, database="postgres"):
        environment = {**os.environ, "PGPASSWORD": "a-secret-of-this-test", "PGCONNECT_TIMEOUT": "5"}
        command = [self.postgres / "psql", "-h", "127.0.0.1", "-p", str(self.entrance), "-U", "postgres", "-d", database, "-Atqc", statement]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    # ---- What happens to it

    def kill_postgres(self):
        node = self.primary()
        postmaster = int((self.folder / f"postgres{node}" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        return f"PostgreSQL of node {node}"

    def kill_node(self):
        node = self.primary()
        for process in self.nodes[node]:
            process.signal_group(signal.SIGKILL)
        for pid in self.postgres_of(node):
            kill(pid, signal.SIGKILL)
        self.dead = node
        return f"node {node}"

    def revive_node(self):
        for process in self.nodes[self.dead]:
            process.process.wait()
            process.start()

    def pause_primary(self):
        """As a virtual machine that its host leaves out for a while: nothing of the node runs."""
        self.paused = self.primary()
        for number in self.pids_of(self.paused):
            kill(number, signal.SIGSTOP)
        return f"node {self.paused}"

    def wake_primary(self):
        for number in self.pids_of(self.paused):
            kill(number, signal.SIGCONT)

    def pids_of(self, node):
        return [process.process.pid for process in self.nodes[node]] + self.postgres_of(node)

    def postgres_of(self, node):
        """The postmaster and its children."""
        try:
            postmaster = int((self.folder / f"postgres{node}" / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError):
            return []
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(postmaster)], capture_output=True, text=True).stdout
        return [postmaster, *map(int, found.split())]

    def switch_over(self):
        leader = self.primary()
        # only one that has everything may take over
        candidate = next(name for name, role in self.standbys().items() if role == "sync_standby")
        body = json.dumps({"leader": f"node{leader}", "candidate": candidate}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[leader]['rest']}/switchover", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return f"from node {leader}: {answer.read().decode().strip()}"

    def under_load(self, what, seconds, happens, after=None, after_seconds=0):
        """Lets something happen under load; what came of it."""
        self.wait("a primary and two replicas", self.is_whole, 120)
        results = self.work / "results.json"
        results.unlink(missing_ok=True)
        load = self.run("load", [
            self.binary, "load", "--server", f"127.0.0.1:{self.server_port}", "--devices", "20", "--records", "50",
            "--duration", f"{seconds}s", "--json", results,
        ], as_user=False, cwd=self.work)
        time.sleep(8)
        said = happens()
        if after:
            time.sleep(after_seconds)
            after()
        status = load.process.wait(timeout=seconds + 200)
        told = json.loads(results.read_text())
        gap = told["longest_gap_seconds"]
        print(f"{what} ({said}): {told['records']} records acknowledged, {told['lost_records']} lost, "
              f"{told['unconfirmed']} uploads unconfirmed, longest pause {gap:.1f} s, errors {sum(told['errors'].values())}", flush=True)
        problems = []
        if status != 0 or told["lost_records"] or told["unconfirmed"]:
            problems.append(f"{what}: acknowledged records are missing")
        if told["records"] == 0 or gap > LONGEST_GAP[what]:
            problems.append(f"{what}: nothing was acknowledged for {gap:.1f} s, and {LONGEST_GAP[what]} s are promised")
        return problems, told["uploads"]

    def doubled(self):
        """Records of which there is more than one, or beyond the number of their upload; and complete uploads that are not whole."""
        return int(self.sql(DOUBLED, "bluetrace"))

    def end(self, failed):
        for process in reversed(self.everything):
            process.kill()
        for node in NODES:
            for pid in self.postgres_of(node):
                kill(pid, signal.SIGKILL)
        if self.keep or failed:
            print(f"failover: the logs are in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def connects(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


DOUBLED = """
select (select count(*) from (select 1 from uploaded_record group by upload, place having count(*) > 1) as same)
     + (select count(*) from uploaded_record as r join upload as u on u.id = r.upload where r.place >= u.records)
     + (select count(*) from upload as u where finished is not null
        and u.records <> (select count(*) from uploaded_record as r where r.upload = u.id))
"""


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--keep"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    cluster = Cluster(pathlib.Path(arguments[0]).resolve(), "--keep" in sys.argv)
    problems = ["it did not come to its end"]
    try:
        cluster.start()
        outcomes = [
            cluster.under_load("kill PostgreSQL", 22, cluster.kill_postgres),
            cluster.under_load("kill a node", 45, cluster.kill_node),
        ]
        cluster.revive_node()
        outcomes += [
            cluster.under_load("pause a primary", 70, cluster.pause_primary, cluster.wake_primary, 36),
            cluster.under_load("switchover", 20, cluster.switch_over),
        ]
        problems = [problem for found, _ in outcomes for problem in found]
        if doubled := cluster.doubled():
            problems.append(f"{doubled} records are there more than once")
    finally:
        cluster.end(bool(problems))
    if problems:
        sys.exit("failover: " + "; ".join(problems))
    print("failover: nothing acknowledged was lost, nothing doubled")


if __name__ == "__main__":
    main()
