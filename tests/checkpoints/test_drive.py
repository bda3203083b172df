"""Google Drive's own way: its pages, through the real client, a proxy and TLS on the loopback."""

from tests.helpers.cli import run_command
from tests.helpers.drive_server import WARNING
from tests.helpers.weight_server import QUOTA

NAME = 'efficientvim_m1_e450_raw'
ID = '1ztpSVnWccoGEEobpmk107US3MjX4LEgz'


def error(capsys):
    assert run_command('weights', ['fetch', NAME]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    return lines[0]


def test_a_large_file(drive, cache, capsys):
    server, proxy = drive
    assert run_command('weights', ['fetch', NAME]) == 0
    assert (cache / f'{NAME}.safetensors').is_file()
    assert server.requests == [('GET', '/uc', f'id={ID}'), ('GET', 'download', '')]
    assert proxy.hosts == ['drive.google.com:443', 'drive.usercontent.google.com:443']
    assert not list(cache.glob('partial/*.pth*'))


def test_a_quota_page(drive, cache, capsys):
    server, _ = drive
    server.html = QUOTA
    message = error(capsys)
    assert 'refused by Google Drive: Too many users have viewed or downloaded' in message
    assert f'download https://drive.google.com/uc?id={ID} by hand' in message
    assert f'{cache}/downloads/EfficientViM_M1_e450.pth' in message


def test_a_page_of_another_kind(drive, capsys):
    server, _ = drive
    server.html = '<html><title>Sign in</title></html>'
    assert 'refused by Google Drive: Cannot retrieve the public link' in error(capsys)


def test_pages_that_lead_in_a_circle(drive, monkeypatch, capsys):
    server, _ = drive
    monkeypatch.setattr('effvim.checkpoints.download.START_TIMEOUT', 1)
    server.html = WARNING.replace('name="confirm"', 'name="other"')
    assert 'sends no file within 1 s' in error(capsys)


def test_a_proxy_that_refuses(drive, capsys):
    _, proxy = drive
    proxy.target = None
    assert f'https://drive.google.com/uc?id={ID} cannot be reached (ProxyError)' in error(capsys)


def test_a_stranger_in_place_of_the_server(drive, monkeypatch, capsys):
    monkeypatch.delenv('REQUESTS_CA_BUNDLE')
    assert 'cannot be reached (SSLError)' in error(capsys)
