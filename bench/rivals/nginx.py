"""nginx as the limit: one worker process that answers a constant of our answer's size over mutual TLS."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence

from bench.contenders import ACTIVE, Absent, Contender, edp_files, free_port, introspections, started, wait_listening
from bench.generator import Question
from bench.population import Population

SETTINGS = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600;
  client_body_temp_path {directory}/a;
  proxy_temp_path {directory}/b;
  fastcgi_temp_path {directory}/c;
  uwsgi_temp_path {directory}/d;
  scgi_temp_path {directory}/e;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {files}/server.pem;
    ssl_certificate_key {files}/server.key;
    ssl_client_certificate {files}/authority.pem;
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    default_type application/json;
    location / {{ return 200 '{answer}'; }}
  }}
}}
"""


def binary() -> str:
    """Where nginx is. Raises Absent."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise Absent("nginx's constant is left out: install nginx (Debian: nginx-light).")
    return found


def constant(size: int) -> str:
    """A body of so many bytes that passes for an answer."""
    start = "{" + ACTIVE.decode() + ',"x":"'
    return start + "x" * (size - len(start) - 2) + '"}'


@contextlib.contextmanager
def nginx(population: Population, tokens: Sequence[bytes], cores: set[int], size: int) -> Iterator[Contender]:
    """size: bytes of the body. Raises Absent, Failed."""
    program, port = binary(), free_port()
    directory = population.directory / "nginx"
    directory.mkdir()
    directory.chmod(0o755)
    settings = directory / "nginx.conf"
    settings.write_text(
        SETTINGS.format(directory=directory, port=port, files=population.directory, answer=constant(size))
    )
    log = directory / "log"
    command = [program, "-p", str(directory), "-c", str(settings), "-e", "stderr"]
    with started(command, cores, log) as process:
        wait_listening(port, process, log)
        yield Contender(process.pid, Question(port, introspections(tokens), ACTIVE, edp_files(population)))


def size_of_answer(question: Question) -> int:
    """Bytes of the body that a contender answers its first request with."""
    import ssl

    from bench.generator import Asker, missing

    assert question.tls
    context = ssl.create_default_context(cafile=str(question.tls[0]))
    context.load_cert_chain(*question.tls[1:])
    asker = Asker(question, context)
    before, after = question.requests[0]
    asker.socket.sendall(before + b"0" * 32 + after)
    answer = asker.socket.recv(65_536)
    while missing(answer) > 0:
        answer += asker.socket.recv(65_536)
    asker.socket.close()
    return len(answer.partition(b"\r\n\r\n")[2])
