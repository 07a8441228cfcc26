"""A BlueTrace device in one file: login, TempIDs, beacons, upload, notices. Standard library only.

Written from docs/protocol.md, whose sections the comments name. Its contact log lives in memory, and it speaks
plaintext, so the authority has to be on the same machine. Usage: bluetrace_client.py HOST PORT UDP_PORT USERNAME
"""
import calendar, contextlib, getpass, json, re, socket, sys, threading, time, uuid

RETENTION_S, TIME = 3 * 60, "%d/%m/%Y %H:%M:%S"  # every time is UTC (section 1)
BEACON = re.compile(r"((\d{20,64}|[A-Za-z\d+/]{82}==)(, \d\d/\d\d/\d{4} \d\d:\d\d:\d\d){2}), 1", re.ASCII)
COMMANDS = "download_tempid", "beacon", "contacts", "upload_contact_log", "notices"


def to_seconds(text):
    return calendar.timegm(time.strptime(text, TIME))


def to_text(seconds):
    return time.strftime(TIME, time.gmtime(seconds))


class Session:
    """One connection to the authority (section 4): lines out, lines in."""
    def __init__(self, host, port):
        self.lines = socket.create_connection((host, port), 30).makefile("rw", encoding="utf-8", newline="\n")

    def write(self, line):
        print(line, file=self.lines, flush=True)

    def read(self):
        if not (line := self.lines.readline()).endswith("\n"):
            raise ConnectionError("the connection ended")
        return line.strip()

    def answer(self):
        if (frame := json.loads(self.read()))["commandType"] == "ER":
            raise ValueError("{code}: {message}".format(**frame["data"]))
        return frame

    def ask(self, **request):
        """Sends one request and gives all frames of its answer, counted down by numOfSend (section 4.3)."""
        self.write(json.dumps(request))
        frames = [self.answer()]
        while frames[-1].get("numOfSend", 0) > 0:
            frames.append(self.answer())
        return frames


class Device:
    def __init__(self, host, port, udp_port):
        self.server, self.temp_ids, self.log, self.offset = (host, port), [], [], 0
        self.radio = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.radio.bind(("", udp_port))
        print("listening for beacons on port", self.radio.getsockname()[1])
        threading.Thread(target=self.listen, daemon=True).start()

    def connect(self, first_line):
        self.session = Session(*self.server)
        self.session.write(first_line)
        return self.session.read()

    def login(self, username, ask_password):
        """Section 4.2; then a token to come back with (4.6) and the offset of the server's clock from ours."""
        reply = self.connect(username)
        while reply[:3] in ("331", "430"):
            print(reply[4:])
            self.session.write(ask_password())
            reply = self.session.read()
        if reply[:3] != "230":
            sys.exit(reply[4:])
        print(reply[4:])
        data = self.session.ask(commandType="RT")[0]["data"]
        offset = to_seconds(data["now"]) - int(time.time())
        self.token, self.offset = data["token"], offset if abs(offset) > 1 else 0  # a second is rounding

    def now(self):
        return time.time() + self.offset

    def download_tempid(self):
        """A day of TempIDs, so that beacons can be sent while the authority is away."""
        self.temp_ids = [frame["data"] for frame in self.session.ask(commandType="DT", numOfRecv=96)]
        print("TempID:", self.temp_ids[0].split(", ")[0], sep="\n")

    def is_valid(self, record):
        start, expiry = record.split(", ")[1:]
        return to_seconds(start) <= int(self.now()) <= to_seconds(expiry)  # both inclusive

    def beacon(self, ip="", port=""):
        """Section 2: the record of now and the version, in one datagram."""
        if not port.isdecimal():
            raise ValueError("Beacon takes an address and a port")
        if (record := next(filter(self.is_valid, self.temp_ids), None)) is None:
            return print("No TempID is valid now. Use Download_tempID")
        self.radio.sendto(f"{record}, 1".encode(), (ip, int(port)))
        print(record)

    def listen(self):
        while True:
            try:
                record = BEACON.fullmatch(self.radio.recv(2048).decode("ascii"))[1]
                valid, now = self.is_valid(record), self.now()
            except (TypeError, ValueError, OSError):
                continue  # not a beacon, and no reason to stop listening
            if valid:
                self.log.append((record, now))
            verdict = f"The beacon is {'valid' if valid else 'invalid'}."
            print("received beacon:", record, "Current time is:", to_text(now), verdict, sep="\n")

    def contacts(self):
        self.log = [(record, heard) for record, heard in self.log if self.now() < heard + RETENTION_S]
        print("\n".join(record for record, _ in self.log) or "No contacts")

    def upload_contact_log(self):
        """Section 4.4: the same id and the same records until the authority has them all, whatever comes between."""
        self.contacts()
        upload, records = str(uuid.uuid4()), [dict(record=record, received=to_text(at)) for record, at in self.log]
        while True:
            with contextlib.suppress(OSError):
                frame = self.session.ask(commandType="UC", numOfSend=len(records), upload=upload)[0]
                for left in range(frame.get("numOfRecv", 0), 0, -1):  # none waits for an answer to the one before
                    self.session.write(json.dumps(dict(commandType="UC", numOfSend=left - 1, data=records[-left])))
                while frame.get("numOfRecv", 0) > 0:
                    frame = self.session.answer()
                return print("acknowledged:", json.dumps(frame["data"]))
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                if not self.connect("RESUME " + self.token).startswith("230"):
                    raise ValueError("the session has expired, log in again")

    def notices(self):
        for frame in self.session.ask(commandType="NT"):
            print("From {from} to {to}: {advice}".format(**frame["data"]) if frame["data"] else "No notices")


if __name__ == "__main__":
    sys.excepthook = lambda kind, error, _: print("Error.", getattr(error, "strerror", str(error)) or kind.__name__)
    host, port, udp_port, username = sys.argv[1:] if len(sys.argv) == 5 else sys.exit(__doc__)
    device = Device(host, int(port), int(udp_port))
    device.login(username, getpass.getpass if sys.stdin.isatty() else input)
    for line in sys.stdin:
        command, *arguments = line.lower().split() or ["help"]
        if command == "logout":
            break
        try:
            if command not in COMMANDS:
                raise ValueError(f"Invalid command. There are {', '.join(COMMANDS)}, logout")
            getattr(device, command)(*arguments)
        except (TypeError, ValueError, OverflowError, OSError) as error:
            print("Error.", error)
    device.session.ask(commandType="LO")
