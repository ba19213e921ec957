"""The Python package: the model card's script with another import line, Ctrl-C, the GIL, refusals."""

import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import quern

SOURCE = pathlib.Path(os.environ["QUERN_SOURCE_DIR"])
M3_TINY = SOURCE / "models/m3-tiny"
RECORD = ".quern_quantize"


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*")
            if path.is_file() and RECORD not in path.parts}


def write_zeros(directory, rows):
    """One BF16 weight [rows, 4096] in a file with a hole."""
    directory.mkdir()
    size = rows * 4096 * 2
    header = json.dumps({"m.weight": {"dtype": "BF16", "shape": [rows, 4096],
                                      "data_offsets": [0, size]}}).encode()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    (directory / "config.json").write_text('{"model_type": "x"}')


class QuernTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = pathlib.Path(temporary.name)

    def test_card_script_equals_the_command_line(self):
        script = (SOURCE / "tools/quark_reference.py").read_text()
        script, changed = re.subn(r"from quark\.torch import ModelQuantizer\n"
                                  r"from quark\.torch\.[a-z_.]+ import LLMTemplate\n",
                                  "from quern import LLMTemplate, ModelQuantizer\n", script)
        self.assertEqual(changed, 1)
        (self.directory / "card.py").write_text(script)
        done = subprocess.run([sys.executable, self.directory / "card.py", "--model_dir", M3_TINY,
                               "--output_dir", self.directory / "py"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("File-to-file quantization completed", done.stdout)
        self.assertIn("quantize", done.stderr)  # the progress bar
        subprocess.run([os.environ["QUERN_BINARY"], "quantize", "--model_dir", M3_TINY, "--output_dir",
                        self.directory / "cli"], check=True, capture_output=True)
        self.assertEqual(contents(self.directory / "py"), contents(self.directory / "cli"))
        self.assertGreater(quern.verify(self.directory / "py")["tensors"], 0)

    def test_interrupt_and_resume(self):
        write_zeros(self.directory / "in", 100_000)  # 819 MB
        code = (f"import quern\nquern.ModelQuantizer(quern.QConfig('mxfp4')).direct_quantize_checkpoint("
                f"{str(self.directory / 'in')!r}, {str(self.directory / 'out')!r}, threads=1)")
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        part = self.directory / "out/model.safetensors.part"
        while process.poll() is None and not (part.exists() and part.stat().st_size > 1 << 20):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
        self.assertIn("KeyboardInterrupt", error)
        self.assertFalse(part.exists())
        self.assertFalse((self.directory / "out/config.json").exists())

    def test_other_threads_run(self):
        write_zeros(self.directory / "in", 20_000)
        ticks, stop = [], threading.Event()

        def tick():
            while not stop.is_set():
                ticks.append(time.monotonic())
                time.sleep(0.001)

        thread = threading.Thread(target=tick)
        thread.start()
        begin = time.monotonic()
        quern.ModelQuantizer(quern.QConfig("mxfp4")).direct_quantize_checkpoint(
            self.directory / "in", self.directory / "out", threads=1)
        end = time.monotonic()
        stop.set()
        thread.join()
        inside = [t for t in ticks if begin < t < end]
        self.assertGreater(len(inside), 5)

    def test_templates(self):
        available = quern.LLMTemplate.list_available()
        self.assertIn("minimax_m3_vl", available)
        self.assertIn("mxfp4", quern.LLMTemplate.get_supported_schemes())
        template = quern.LLMTemplate.get("llama")
        self.assertEqual(template.exclude_layers_name, ["lm_head"])
        self.assertEqual(template.get_config("mxfp4").exclude, ("lm_head",))
        self.assertEqual(template.get_config("mxfp4", exclude_layers=[]).exclude, ())
        with self.assertRaisesRegex(ValueError, "no model template defined for the model type 'nope'"):
            quern.LLMTemplate.get("nope")
        with self.assertRaisesRegex(ValueError, "Unsupported quantization scheme: nope"):
            template.get_config("nope")
        with self.assertRaisesRegex(NotImplementedError, "kv_cache_scheme='fp8'"):
            template.get_config("mxfp4", kv_cache_scheme="fp8")
        with self.assertLogs("quern", "WARNING"):
            quern.LLMTemplate.register_template(template)

    def test_weight_converters(self):
        source = SOURCE / "tests/golden/quantize_sources/fused"  # of model type qwen3_5_moe
        converters = quern.LLMTemplate.get("qwen3_5_moe").f2f_weight_converters
        self.assertEqual(converters[1], quern.WeightConverter("down_proj", ["down_proj.weight"],
                                                              [quern.SplitFusedExperts(split_axis=0)]))
        config = quern.QConfig("mxfp4", exclude=("*.excluded",))
        quantizer = quern.ModelQuantizer(config)
        quantizer.direct_quantize_checkpoint(source, self.directory / "out", weight_converters=converters)
        golden = json.loads((SOURCE / "tests/golden/quantize_sources/golden.json").read_text())["fused"]["mxfp4"]
        tensors = {}
        for shard in (self.directory / "out").glob("*.safetensors"):
            with open(shard, "rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            tensors.update({name: [entry["dtype"], entry["shape"]] for name, entry in header.items()})
        self.assertEqual(tensors, {name: row[:2] for name, row in golden.items()})

        class Concatenate:
            dim = 0

        with self.assertRaisesRegex(NotImplementedError, "Concatenate"):
            quantizer.direct_quantize_checkpoint(source, self.directory / "no", weight_converters=[
                quern.WeightConverter("a", "b", [Concatenate()])])
        with self.assertRaisesRegex(ValueError, "one source pattern"):
            quantizer.direct_quantize_checkpoint(source, self.directory / "no", weight_converters=[
                quern.WeightConverter(["a", "b"], "c", [quern.Chunk()])])

    def test_quantized_source_arguments(self):
        """Excluded layers kept as they are, and presharded weights named by the caller, not by the source."""
        source = self.directory / "source"
        shutil.copytree(SOURCE / "tests/golden/quantize_sources/fp8", source)
        config = json.loads((source / "config.json").read_text())
        presharded = config["quantization_config"].pop("presharded_weights")
        (source / "config.json").write_text(json.dumps(config))
        quantizer = quern.ModelQuantizer(quern.QConfig("mxfp4", exclude=("*.excluded",)))
        with self.assertRaisesRegex(quern.Error, "qkv.weight"):  # its scales fit no unsharded grid
            quantizer.direct_quantize_checkpoint(source, self.directory / "no")
        self.assertFalse((self.directory / "no").exists())
        quantizer.direct_quantize_checkpoint(source, self.directory / "out", True, presharded_weights=presharded)
        written = json.loads((self.directory / "out/config.json").read_text())["quantization_config"]
        golden = json.loads((SOURCE / "tests/golden/quantize_sources/golden.json").read_text())["fp8"]["kept"]
        self.assertEqual(written["layer_quant_config"], golden["layer_quant_config"])
        self.assertEqual(written["exclude"], golden["exclude"])

    def test_errors_are_exceptions(self):
        quantizer = quern.ModelQuantizer(quern.QConfig("mxfp4"))
        with self.assertRaisesRegex(quern.Error, "is not a directory"):
            quantizer.direct_quantize_checkpoint(self.directory / "absent", self.directory / "out")
        with self.assertRaises(TypeError):
            quantizer.direct_quantize_checkpoint("a", "b", False, "cpu", "cuda")


if __name__ == "__main__":
    unittest.main()
