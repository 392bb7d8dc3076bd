"""What compose.yaml promises, checked without docker: run by docker/test."""

import pathlib
import sys

import yaml

here = pathlib.Path(__file__).parent
compose = yaml.safe_load((here / "compose.yaml").read_text())
failures = []


def expect(holds, what):
    if not holds:
        failures.append(what)


services = compose["services"]
proxy, registry = services["portcullis"], services["registry"]

expect(set(services) == {"portcullis", "registry"}, "two services")
expect("ports" not in registry, "the registry is published to nobody")
expect("outside" not in registry["networks"], "the registry is on the inner network alone")
expect(compose["networks"]["inside"].get("internal") is True, "the inner network leads nowhere")
expect(registry["healthcheck"]["test"][0] == "CMD", "the registry's health is asked for")
expect(
    proxy["depends_on"]["registry"]["condition"] == "service_healthy",
    "the proxy waits for the registry",
)
expect(
    proxy["build"] == {"context": "..", "dockerfile": "docker/Dockerfile"},
    "the image is that of this folder",
)

for name, service in services.items():
    expect(service.get("read_only") is True, f"{name}: nothing but volumes is writable")
    expect(service.get("cap_drop") == ["ALL"], f"{name}: no capability")
    expect("cap_add" not in service and "privileged" not in service, f"{name}: none added")
    expect(
        "no-new-privileges:true" in service.get("security_opt", []), f"{name}: no new privileges"
    )
    for network in service["networks"]:
        expect(network in compose["networks"], f"{name}: the network {network} is declared")
    for volume in service["volumes"]:
        source, target, *options = volume.split(":")
        if source.startswith("."):
            expect((here / source).is_dir(), f"{name}: {source} is a folder here")
            expect(options == ["ro"], f"{name}: {source} is mounted read-only")
        else:
            expect(source in compose["volumes"], f"{name}: the volume {source} is declared")
        expect(target.startswith("/"), f"{name}: {target} is absolute")

# The port that compose publishes is the one of the image and of the configuration.
published = [port.split(":")[-1] for port in proxy["ports"]]
dockerfile = (here / "Dockerfile").read_text()
config = (here / "etc" / "portcullis.toml").read_text()
for port in published:
    expect(f"EXPOSE {port}\n" in dockerfile, f"the image exposes {port}")
    expect(f'"0.0.0.0:{port}"' in config, f"the configuration listens on {port}")
expect('url = "http://registry:5000"' in config, "the configuration names the registry's service")

for failure in failures:
    print(f"compose.yaml does not keep: {failure}")
sys.exit(bool(failures))
