"""Debian's python3-docker as an old client: every call that an engine must
answer in the shape of the asked version. Usage: old_client.py SOCKET VERSION REGISTRY"""
import io
import socket
import sys
import tarfile
import time

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

host, version, registry = sys.argv[1:4]
d = docker.DockerClient(base_url=host, version=version, timeout=60)
api = d.api
minor = int(version.split(".")[1])
name = "py-" + version.replace(".", "-")


def refused(status, text, call, *args, **kw):
    try:
        call(*args, **kw)
    except APIError as e:
        assert e.response.status_code == status, (e.response.status_code, status, e)
        assert text in e.explanation, (e.explanation, text)
    else:
        raise AssertionError("accepted: %r" % (args,))


# The system.
assert d.ping()
assert d.version()["ApiVersion"] and d.version()["MinAPIVersion"] == "1.24"
info = d.info()
for key in ("ID", "Containers", "Images", "Driver", "MemoryLimit", "NCPU", "MemTotal", "OSType", "ServerVersion", "SecurityOptions", "Swarm"):
    assert key in info, key
assert ("BridgeNfIptables" in info) == (minor < 50)

# Images.
img = d.images.get("busybox")
assert "busybox:latest" in img.tags
assert ("VirtualSize" in img.attrs) == (minor < 44), img.attrs
assert ("ContainerConfig" in img.attrs) == (minor < 45)
assert any(i.id == img.id for i in d.images.list("busybox"))
assert img.tag(name + "/image", "v1") and d.images.get(name + "/image:v1").id == img.id
assert img.history()
remote = registry + "/" + name + "/image"
assert img.tag(remote, "v1")
lines = list(d.images.push(remote, "v1", stream=True, decode=True))
assert not any("error" in line for line in lines) and any(line.get("aux", {}).get("Tag") == "v1" for line in lines), lines
d.images.remove(remote + ":v1")
assert d.images.pull(remote, "v1").id == img.id
d.images.remove(remote + ":v1")
saved = b"".join(d.images.get(name + "/image:v1").save(named=name + "/image:v1"))
d.images.remove(name + "/image:v1")
loaded = d.images.load(saved)
assert [i.id for i in loaded] == [img.id] and d.images.get(name + "/image:v1").id == img.id, loaded
d.images.remove(name + "/image:v1")
try:
    d.images.get("nosuch-image")
    raise AssertionError("an image that is not there was found")
except ImageNotFound:
    pass

# A container's life.
c = d.containers.create("busybox", ["sh", "-c", "trap 'exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.1; done"], name=name,
                        environment={"A": "1"}, labels={"py": version}, working_dir="/tmp", mem_limit="64m", nano_cpus=500000000 if minor >= 25 else None, pids_limit=50,
                        ports={"80/tcp": ("127.0.0.1", None), "90/udp": None}, cap_add=["NET_ADMIN"], cap_drop=["MKNOD"], dns=["192.0.2.1"],
                        extra_hosts={"h": "192.0.2.2"}, tmpfs={"/t": "size=1m"}, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
                        stop_signal="SIGTERM", ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)], hostname="oldhost", shm_size="8m",
                        sysctls={"net.core.somaxconn": "99"}, init=True if minor >= 25 else None, read_only=True, user="root", volumes=["/vol"])
assert c.status == "created", c.status
a = c.attrs
assert a["State"]["StartedAt"] == "0001-01-01T00:00:00Z" == a["State"]["FinishedAt"], a["State"]
assert a["Config"]["Env"] and a["HostConfig"]["Memory"] == 64 << 20 and a["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
c.start()
c.reload()
assert c.status == "running" and c.attrs["State"]["Pid"] > 0
settings = c.attrs["NetworkSettings"]
assert settings["Networks"]["bridge"]["IPAddress"] == (settings["IPAddress"] if minor < 52 else settings["Networks"]["bridge"]["IPAddress"])
assert settings["Ports"]["80/tcp"][0]["HostIp"] == "127.0.0.1" and int(settings["Ports"]["80/tcp"][0]["HostPort"]) > 0
assert api.port(name, 80) == settings["Ports"]["80/tcp"]
deadline = time.time() + 20
while b"err" not in c.logs() and time.time() < deadline:
    time.sleep(0.05)
exported = tarfile.open(fileobj=io.BytesIO(b"".join(c.export())))
assert "bin/busybox" in exported.getnames() and "proc" in exported.getnames() and "proc/1" not in exported.getnames()
refused(404, "No such container", lambda: list(api.export("nosuch")))
assert c.logs(stdout=True, stderr=False) == b"out\n", c.logs(stdout=True, stderr=False)
assert c.logs(stdout=False, stderr=True) == b"err\n"
assert c.logs(tail=0) == b"" and len(c.logs(tail=1).splitlines()) == 1
assert c.logs(timestamps=True, stderr=False).split(b" ")[0].endswith(b"Z")
assert c.logs(since=int(time.time()) + 5) == b""
assert [x.id for x in d.containers.list(filters={"label": "py=" + version})] == [c.id]
assert d.containers.list(filters={"label": "py=" + version, "status": "exited"}, all=True) == []
row = api.containers(filters={"id": c.id})[0]
assert row["State"] == "running" and row["Names"] == ["/" + name] and row["Ports"], row
assert ("Health" in row) == (minor >= 52)
assert api.containers(filters={"id": c.id}, size=True)[0]["SizeRootFs"] > 0
assert "PID" in c.top()["Titles"] and c.top(ps_args="-o pid,cmd")["Titles"] == ["PID", "CMD"]

# exec: framed, raw, and a terminal read as frames, as this client does by default.
code, out = c.exec_run("sh -c 'echo o; echo e >&2; exit 4'", demux=True)
assert (code, out) == (4, (b"o\n", b"e\n")), (code, out)
code, out = c.exec_run("echo tty", tty=True)
assert (code, out) == (0, b"tty\r\n"), out
e = api.exec_create(c.id, "echo framed", tty=True)
assert api.exec_start(e["Id"]) == b"framed\r\n"
e = api.exec_create(c.id, ["sh", "-c", "echo $B; pwd; id -u"], environment={"B": "2"} if minor >= 25 else None, user="33", workdir="/etc" if minor >= 35 else None)
out = api.exec_start(e["Id"]).split()
assert out[-1] == b"33" and out[-2] == (b"/etc" if minor >= 35 else b"/tmp"), out
seen = api.exec_inspect(e["Id"])
assert seen["ExitCode"] == 0 and seen["Running"] is False and seen["ContainerID"] == c.id and seen["Pid"] == 0, seen
assert seen["ProcessConfig"]["entrypoint"] == "sh" and seen["ProcessConfig"]["user"] == "33", seen
e = api.exec_create(c.id, ["sleep", "5"])
api.exec_start(e["Id"], detach=True)
assert api.exec_inspect(e["Id"])["Running"] is True and api.exec_inspect(e["Id"])["ExitCode"] is None
refused(409, "has already run", api.exec_start, e["Id"], detach=True)
refused(404, "No such exec instance", api.exec_inspect, "nosuch")
refused(404, "No such exec instance", api.exec_start, "nosuch")
code, out = c.exec_run("nosuchprogram")
assert code in (126, 127), (code, out)

# States and what they refuse.
c.pause()
refused(409, "is already paused", c.pause)
refused(409, "is paused", c.exec_run, "true")
refused(409, "unpause and then stop", c.remove)
c.unpause()
refused(409, "is not paused", c.unpause)
refused(409, "stop the container before removing or force remove", c.remove)
refused(409, "is already in use by container", d.containers.create, "busybox", name=name)
c.rename(name + "-renamed")
c.restart(timeout=1)
deadline = time.time() + 20
while c.logs(stderr=False).count(b"out") < 2 and time.time() < deadline:
    time.sleep(0.05)
c.stop(timeout=5)
assert c.wait()["StatusCode"] == 3
c.stop()  # 304
refused(409, "is not running", c.kill)
refused(409, "is not running", c.exec_run, "true")
refused(409, "is not running", c.top)
c.reload()
assert c.attrs["State"]["ExitCode"] == 3 and c.attrs["NetworkSettings"]["Ports"] == {} and c.attrs["RestartCount"] == 0
c.remove(v=True)
refused(404, "No such container", c.reload)

# run: output, errors, --rm.
assert d.containers.run("busybox", "echo hello", remove=True) == b"hello\n"
try:
    d.containers.run("busybox", "sh -c 'echo oops >&2; exit 9'", remove=True)
    raise AssertionError("an exit code was lost")
except ContainerError as e:
    assert e.exit_status == 9 and e.stderr == b"oops\n", (e.exit_status, e.stderr)
refused(400, "executable file not found", d.containers.run, "busybox", "nosuch", name=name + "-bad")
d.containers.get(name + "-bad").remove()

# attach: stdin, half-close, logs first, framing.
c = d.containers.create("busybox", ["sh", "-c", "echo ready; cat; echo bye"], stdin_open=True, name=name)
s = api.attach_socket(c.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
raw = getattr(s, "_sock", s)
c.start()
raw.sendall(b"through\n")
raw.shutdown(socket.SHUT_WR)
got = b""
while True:
    b = raw.recv(4096)
    if not b:
        break
    got += b
assert got.startswith(b"\x01\0\0\0") and b"through\n" in got and b"bye\n" in got, got
s.close()
assert c.wait()["StatusCode"] == 0
assert c.attach(logs=True, stream=False) == b"ready\nthrough\nbye\n", c.attach(logs=True, stream=False)
assert list(c.logs(stream=True, follow=True)), "logs of one that has ended"
c.remove()

# A terminal, resized before and after its start.
c = d.containers.create("busybox", "sh", stdin_open=True, tty=True, name=name)
refused(409, "is not running", c.resize, 10, 10)
c.start()
c.resize(33, 101)
s = api.attach_socket(c.id, params={"stdin": 1, "stdout": 1, "stream": 1})
raw = getattr(s, "_sock", s)
raw.sendall(b"stty size; exit 5\n")
got = b""
while True:
    b = raw.recv(4096)
    if not b:
        break
    got += b
assert b"33 101" in got, got
s.close()
assert c.wait()["StatusCode"] == 5
c.remove(force=True)

# Events of all that, and their old shape.
seen = [e for e in d.events(since=int(time.time()) - 600, until=int(time.time()) + 1, decode=True, filters={"type": "container"}) if e["Actor"]["Attributes"].get("name", "").startswith(name)]
actions = [e["Action"].split(":")[0] for e in seen]
for action in ("create", "start", "die", "stop", "kill", "pause", "unpause", "rename", "restart", "destroy", "exec_create", "exec_start", "exec_die", "attach", "resize", "top"):
    assert action in actions, (action, actions)
assert all(("status" in e) == (minor < 52) for e in seen)
assert all(e["Actor"]["Attributes"]["image"] == "busybox" and e["timeNano"] // 10**9 == e["time"] for e in seen)

# Networks and volumes.
bridge = d.networks.list(names=["bridge"])[0]
assert bridge.attrs["Driver"] == "bridge" and bridge.attrs["IPAM"]["Config"][0]["Subnet"]
v = d.volumes.create(name, labels={"a": "b"})
assert v.attrs["Driver"] == "local" and v.attrs["Mountpoint"] and v.attrs["Labels"] == {"a": "b"}
assert d.containers.run("busybox", "sh -c 'echo kept > /v/f; cat /v/f'", volumes={name: {"bind": "/v", "mode": "rw"}}, remove=True) == b"kept\n"
if minor >= 30:
    assert d.containers.run("busybox", "cat /v/f", mounts=[docker.types.Mount("/v", name, read_only=True)], remove=True) == b"kept\n"
assert [x.name for x in d.volumes.list(filters={"name": name})] == [name]
v.remove()
try:
    d.volumes.get(name)
    raise AssertionError("a removed volume was found")
except NotFound:
    pass

# prune, and import.
c = d.containers.run("busybox", "true", detach=True, labels={"prune": name})
c.wait()
if minor >= 25:
    assert d.containers.prune(filters={"label": "prune=" + name})["ContainersDeleted"] == [c.id]
else:
    c.remove()
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as t:
    t.addfile(tarfile.TarInfo("file"), io.BytesIO(b""))
api.import_image_from_data(archive.getvalue(), repository=name + "/import", tag="v1")
d.images.remove(name + "/import:v1")

# Networks.
n = d.networks.create(name + "-net", driver="bridge", labels={"of": name})
assert [x.id for x in d.networks.list(names=[name + "-net"])] == [n.id]
c = d.containers.run("busybox", ["sleep", "1000"], detach=True, network=n.name)
c.reload()
assert list(c.attrs["NetworkSettings"]["Networks"]) == [n.name]
n.reload()
assert [x.id for x in n.containers] == [c.id], n.attrs
d.networks.get("bridge").connect(c)
c.reload()
assert set(c.attrs["NetworkSettings"]["Networks"]) == {n.name, "bridge"}
refused(403, "already exists", d.networks.get("bridge").connect, c)
refused(403, "active endpoints", n.remove)
n.disconnect(c)
c.remove(force=True)
n.remove()
refused(404, "not found", d.networks.get, name + "-net")

# What a container changed, images of it, and files into and out of it.
c = d.containers.run("busybox", ["sh", "-c", "echo x > /made; rm -f /etc/group; exec sleep 1000"], detach=True)
for _ in range(100):
    diff = {x["Path"]: x["Kind"] for x in c.diff()}
    if "/made" in diff and "/etc/group" in diff:
        break
    time.sleep(0.1)
assert diff == {"/made": 1, "/etc": 0, "/etc/group": 2}, diff
data, st = c.get_archive("/made")
assert (st["name"], st["size"]) == ("made", 2), st
packed = b"".join(data)
assert tarfile.open(fileobj=io.BytesIO(packed)).extractfile("made").read() == b"x\n"
assert c.put_archive("/tmp" if c.exec_run("test -d /tmp").exit_code == 0 else "/", packed)
refused(404, "Could not find the file", c.get_archive, "/nosuch")
i = c.commit(name + "-commit", "1", message="m", author="a", changes="CMD cat /made")
assert d.containers.run(i.id, remove=True) == b"x\n"
d.images.remove(i.id, force=True)
c.remove(force=True)

# What is not there says so.
c = d.containers.create("busybox", "true")
refused(503, "This node is not a swarm manager", d.services.list)
assert minor < 25 or d.plugins.list() == []
c.remove()
print("ok", version)
