"""Small training runs for the tests of checkpoints: started, watched, killed and compared."""
import contextlib, itertools, json, os, pathlib, random, re, shutil, signal, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MPIRUN = ["mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1",
          "--mca", "btl_vader_single_copy_mechanism", "none"] + ["--allow-run-as-root"] * (os.geteuid() == 0)
# In the environment of all runs of this process, and of what they start.
MARK = f"PENTAFOLD_TEST_RUN={os.getpid()}-".encode()
# Nothing may take longer, a start and the end of killed ranks among it.
PATIENCE_S = 120
# What a run's folder may hold when nothing runs.
WANTED_FILES = re.compile(r"config\.yaml|metrics\.jsonl|events\.out\.tfevents\..*|checkpoints/step-\d{8}/"
                          r"(part-\d{5}\.h5|checkpoint\.h5|checksums\.xxh128)")

CONFIG = """\
model:
  layers: 2
  hidden: 64
  heads: 4
  kv_heads: 2
  moe: {experts: 4, top_k: 2, ffn: 32, shared_ffn: 32, balance: {weight: 0.01}}
data:
  sequence: 32
  heldout_share: 0
  sources: [{name: words, path: words.txt}]
train: {steps: 40, global_batch: 8, micro_batch: 1, sample_bytes: 0}
checkpoint: {every: 2, keep: 2}
optimizer: {lr: 2e-3}
"""


class Violation(Exception):
    """What a run did and must not."""


def require(condition, what):
    if not condition:
        raise Violation(what)


@contextlib.contextmanager
def work_folder(name):
    """A folder with a configuration and a text. It stays, and is named, if what uses it fails; no run stays."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"pentafold-{name}-"))
    words = random.Random(1)
    vocabulary = ["".join(words.choices("etaoinshrdlu", k=words.randint(2, 8))) for _ in range(300)]
    documents = (" ".join(words.choices(vocabulary, k=60)) for _ in range(300))
    (folder / "words.txt").write_text("\f".join(documents))
    (folder / "run.yaml").write_text(CONFIG)
    try:
        yield folder
    except BaseException:
        print(f"kept: {folder}", flush=True)
        raise
    finally:
        Run.kill(processes_with(MARK))
    shutil.rmtree(folder)


def processes_with(mark):
    """{process: its program} of those that have a mark in their environment."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            if mark in pathlib.Path("/proc", entry, "environ").read_bytes():
                found[int(entry)] = os.readlink(f"/proc/{entry}/exe")
    return found


def step_of(path):
    return int(path.name[5:13])


class Run:
    """A training run in FOLDER/NAME, which may be started again and again with the same command."""

    numbers = itertools.count()

    def __init__(self, program, folder, name, arguments, processes=1, environment=None):
        self.program, self.folder, self.path = pathlib.Path(program).resolve(), folder, folder / name
        self.processes = processes  # above 1: under mpirun
        self.arguments = [str(self.program), "train", "run.yaml", f"run.folder={name}", *arguments]
        self.mark = MARK + b"%d-" % next(Run.numbers)
        variable, value = self.mark.decode().split("=")
        self.environment = os.environ | {variable: value} | (environment or {})
        self.starts, self.process = 0, None

    def command(self):
        if self.processes == 1:
            return self.arguments
        # Segments of killed ranks go with the folder.
        shared = ["--mca", "btl_vader_backing_directory", str(self.folder)]
        return [*MPIRUN, *shared, "-n", str(self.processes), str(ROOT / "launch/rank"), *self.arguments]

    def start(self):
        self.starts += 1
        self.output = self.folder / f"{self.path.name}.{self.starts}.out"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=subprocess.STDOUT, start_new_session=True,
                                            env=self.environment | {"TERM": "dumb", "TMPDIR": str(self.folder)})

    def has_ended(self):
        return self.process.poll() is not None

    def wait_until(self, holds, what):
        """Whether it came to that before the run ended."""
        end = time.monotonic() + PATIENCE_S
        while not holds():
            if self.has_ended():
                return bool(holds())
            require(time.monotonic() < end, f"{what} took more than {PATIENCE_S} s")
            time.sleep(0.001)
        return True

    def wait(self):
        """Its exit code, once no process of it is left."""
        end = time.monotonic() + PATIENCE_S
        while processes := processes_with(self.mark):
            self.process.poll()  # or it would stay as a zombie
            if time.monotonic() > end:
                self.kill(processes)
                raise Violation(f"after {PATIENCE_S} s there are still {sorted(processes.values())}")
            time.sleep(0.01)
        return self.process.wait()

    def ranks(self):
        """Its processes that train."""
        return sorted(process for process, program in processes_with(self.mark).items()
                      if program == str(self.program))

    @staticmethod
    def kill(processes):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def text(self):
        return self.output.read_text(errors="replace")

    def steps_shown(self):
        """Those that it took since its start."""
        return [int(step) for step in re.findall(r"^ *(\d+) +[\d.]+ +[\d.e+-]+ ", self.text(), re.M)]

    def metrics(self):
        """A line for each step: (step, loss, gradient norm, learning rate) as they are written. A torn one is none."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        steps = (json.loads(line, parse_float=str) for line in lines if line.endswith("\n"))
        return [tuple(step[key] for key in ("step", "loss", "grad_norm", "lr")) for step in steps if "loss" in step]

    def checkpoint_names(self):
        with contextlib.suppress(FileNotFoundError):
            return os.listdir(self.path / "checkpoints")
        return []

    def checkpoints(self):
        """Oldest first."""
        names = sorted(name for name in self.checkpoint_names() if re.fullmatch(r"step-\d{8}", name))
        return [self.path / "checkpoints" / name for name in names]

    def being_written(self):
        return next((name[:-len(".writing")] for name in self.checkpoint_names() if name.endswith(".writing")), None)

    def ask(self, *arguments):
        """pentafold checkpoint: (exit code, output)."""
        done = subprocess.run([self.program, "checkpoint", *map(str, arguments)], cwd=self.folder,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return done.returncode, done.stdout

    def require_whole(self):
        """Of all checkpoints that have their names; the step of the newest, 0 if there is none."""
        if not (found := self.checkpoints()):
            return 0
        for path in found:
            code, output = self.ask("verify", path)
            require(code == 0, output)
        return step_of(found[-1])

    def stray_files(self):
        files = (path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir())
        folders = [path.name for path in (self.path / "checkpoints").iterdir() if not any(path.iterdir())]
        return folders + [name for name in files if not WANTED_FILES.fullmatch(name)]

    def require_equal_to(self, reference):
        """Numbers of all steps and the last checkpoint are the reference's, bit by bit."""
        found, wanted = self.metrics(), reference.metrics()
        for mine, right in zip(found, wanted):
            require(mine == right, f"metrics.jsonl has {mine}, wanted {right}")
        require(len(found) == len(wanted), f"metrics.jsonl has {len(found)} steps, wanted {len(wanted)}")
        code, output = self.ask("diff", reference.path, self.path)
        require(code == 0, output)
