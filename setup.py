"""What pyproject.toml cannot say: a wheel's `effvim/` also holds configs/ and requirements.txt.

Both stay at the top of a checkout, where people look for them. effvim/resources.py finds either.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithResources(build_py):
    """As setuptools, then copy what is not a module of the package."""

    def run(self) -> None:
        """Build; an editable installation needs no copies, it reads the checkout's files."""
        super().run()
        if not self.editable_mode:
            for source, target in self.resources().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(str(source), target)

    def resources(self) -> dict[Path, str]:
        """The copied files and where they go."""
        files = [ROOT / 'requirements.txt', *(ROOT / 'configs').rglob('*.py')]
        package = Path(self.build_lib) / 'effvim'
        return {file: str(package / file.relative_to(ROOT)) for file in sorted(files)}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The built files, the copies included."""
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, *self.resources().values()]


setup(cmdclass={'build_py': BuildWithResources})
