"""Features of timm's models, each stage as timm's own ``features_only`` networks give it."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision.transforms import InterpolationMode, Normalize, Resize

from vipo.registry import BACKBONES, ConfigError
from vipo.structurers import FeatureNormAllocator, PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import Backbone, Features, TimmBackbone
from vipo.structurers.backbones.timm_models import joined
from vipo.structurers.backbones.twins import randomise

IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
#: Name -> (model, arguments of a tiny one, largest stride, strides of its stages).
MODELS = {
    'resnet': ('resnet50', {'layers': (1, 1, 1, 1), 'channels': (8, 8, 16, 16)}, 32, (2, 4, 8, 16, 32)),
    'convnext': ('convnext_tiny', {'depths': (1, 1, 1, 1), 'dims': (8, 8, 16, 24)}, 32, (4, 8, 16, 32)),
    'sam': ('samvit_base_patch16', {'embed_dim': 16, 'num_heads': 2, 'neck_chans': 12, 'depth': 3}, 16, (16,) * 3),
    'sam2': (
        'sam2_hiera_tiny',
        {'embed_dim': 8, 'stages': (1, 1, 2, 1), 'global_att_blocks': (3,)},
        32,
        (4, 8, 16, 32),
    ),
    'vit': ('vit_small_patch14_dinov2', {'embed_dim': 24, 'num_heads': 2, 'depth': 2, 'img_size': 56}, 14, (14, 14)),
    'swin': ('swin_tiny_patch4_window7_224', {'embed_dim': 8, 'depths': (1, 1), 'num_heads': (1, 2)}, 8, (4, 8)),
}
#: What timm itself needs for pictures of other sizes.
DYNAMIC = {'vit': {'dynamic_img_size': True}, 'swin': {'strict_img_size': False}}


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Weights of the whole tiny models, classifiers included, as timm would save them."""
    root, files = tmp_path_factory.mktemp('timm'), {}
    for name, (model, args, _, _) in MODELS.items():
        whole = randomise(timm.create_model(model, **args))
        for module in whole.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        files[name] = str(root / f'{name}.safetensors')
        save_file(whole.state_dict(), files[name])
    return files


@pytest.fixture
def build(checkpoints):
    def make(name, **options):
        model, args, _, _ = MODELS[name]
        return TimmBackbone(**{'model': model, 'model_args': args, 'checkpoint': checkpoints[name], **options})

    return make


@pytest.fixture
def pictures(normal):
    return lambda height, width: normal(2, 3, height, width).sigmoid()


def by_hand(name, checkpoint):
    """timm's own feature network on the same weights."""
    model, args, _, strides = MODELS[name]
    whole = timm.create_model(model, **args, **DYNAMIC.get(name, {}))
    whole.load_state_dict(load_file(checkpoint))
    net = timm.create_model(
        model,
        features_only=True,
        out_indices=tuple(range(len(strides))),
        pretrained=True,
        pretrained_cfg_overlay={'state_dict': whole.state_dict()},
        **args,
        **DYNAMIC.get(name, {}),
    )
    return net.eval()


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_every_stage_is_timms(name, build, checkpoints, pictures):
    _, _, multiple, strides = MODELS[name]
    height, width = 2 * multiple, 3 * multiple
    x = pictures(height, width)
    stages = by_hand(name, checkpoints[name])(IMAGENET(x))
    if name == 'swin':
        stages = [s.permute(0, 3, 1, 2) for s in stages]
    for number, (stage, stride) in enumerate(zip(stages, strides, strict=True)):
        found = build(name, stages=number - len(strides) * (number % 2))(x).map
        assert found.shape[-2:] == (height // stride, width // stride)
        torch.testing.assert_close(found, stage, atol=1e-4, rtol=1e-4)
    assert torch.equal(build(name)(x).map, found), 'the last stage is the default'


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_other_sizes_are_resized_and_not_cropped(name, build, pictures):
    multiple = MODELS[name][2]
    x = pictures(2 * multiple + 3, 3 * multiple - 3)
    resized = Resize((2 * multiple, 3 * multiple), InterpolationMode.BICUBIC, antialias=True)(x).clamp(0, 1)
    backbone = build(name)
    wanted = backbone(resized).map
    assert (backbone(x).map - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_content_at_the_right_edge_alone_moves_the_last_column(name, build):
    multiple = MODELS[name][2]
    blank = torch.full((1, 3, 3 * multiple, 4 * multiple + 3), 0.5)
    edge = blank.clone()
    edge[..., 4 * multiple :] = torch.tensor([1.0, 0.0, 0.2]).reshape(3, 1, 1)
    backbone = build(name)
    moved = (backbone(edge).map - backbone(blank).map).norm(dim=1).mean((0, 1))
    assert moved.argmax() == len(moved) - 1 == 4 * multiple // backbone.strides[-1] - 1
    assert moved[-1] > 1e-3


@pytest.mark.parametrize(('name', 'stage', 'margin'), [('resnet', 3, 4), ('convnext', 2, 6), ('resnet', 1, 6)])
@torch.no_grad()
def test_interior_of_a_convolutional_network_moves_with_the_picture(name, stage, margin, build, pictures):
    backbone = build(name, stages=stage)
    cells = 32 // backbone.strides[0]
    wide = pictures(320, 320 + 32)[:1]
    left, right = backbone(wide[..., :320]).map, backbone(wide[..., 32:]).map
    inside, end = slice(margin, -margin), -margin - cells
    wanted = left[:, :, inside, margin + cells : -margin]
    torch.testing.assert_close(right[:, :, inside, margin:end], wanted, atol=1e-4, rtol=1e-4)
    assert (right - left).abs().max() > 1e-2


@pytest.mark.parametrize(('name', 'stage'), [('resnet', 4), ('resnet', 3), ('convnext', 3), ('sam2', 0), ('sam', -1)])
@torch.no_grad()
def test_where_a_position_looks(name, stage, build):
    """The centre of the gradient of one position, against where the backbone says it is."""
    multiple = MODELS[name][2]
    backbone = build(name, stages=stage)
    stride = backbone.strides[0]
    side = 8 * multiple
    x = torch.full((1, 3, side, side), 0.5)
    row, column = side // stride // 2, side // stride // 2 + 1
    with torch.enable_grad():
        given = x.clone().requires_grad_()
        prepared = backbone.preparation(given, next(backbone.model.parameters()))
        features = backbone._run(prepared, norm=False)[0]
        probe = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(0))
        (influence,) = torch.autograd.grad((features[0, :, row, column] * probe).sum(), given)
    weight = influence[0].square().sum(0)
    places = torch.arange(side) + 0.5
    centre = [float((weight.sum(1 - axis) * places).sum() / weight.sum()) for axis in (0, 1)]
    for found, position in zip(centre, (row, column), strict=True):
        said = (position + 0.5 + backbone.offsets[0]) * stride
        assert said - 0.35 * stride < found < said + 0.35 * stride


@pytest.mark.parametrize(
    ('name', 'pixels'),
    [
        # 7 at stride 2 padded by 3 looks at pixels 0, 2, 4, ..., half a pixel before the middle; so do all that follow
        ('resnet', [-0.5, -1.5, -3.5, -7.5, -15.5]),
        ('convnext', [0, 0, 0, 0]),
        ('sam', [0, 0, 0]),
        # 7 at stride 4 padded by 3 alone; then the largest of two by two
        ('sam2', [-1.5, -1.5, -1.5, -1.5]),
        ('vit', [0, 0]),
        ('swin', [0, 0]),
    ],
)
def test_how_far_off_positions_are_by_hand(name, pixels, build):
    strides = MODELS[name][3]
    backbone = build(name, stages=list(range(len(strides))))
    assert [o * s for o, s in zip(backbone.offsets, strides, strict=True)] == pixels


@torch.no_grad()
def even(model, stage):
    """A network of equal positive kernels: where its positions look is not hidden behind what they look for."""
    backbone = TimmBackbone(model, stages=stage, pretrained=False)
    for name, parameter in backbone.model.named_parameters():
        parameter.fill_(1 / parameter[0].numel() if parameter.ndim == 4 else float(name.endswith('weight')))
    for name, buffer in backbone.model.named_buffers():
        buffer.fill_(float(name.endswith('running_var')))
    return backbone


@pytest.mark.parametrize(
    ('model', 'pixels', 'within'),
    # the two EfficientNets differ in their padding alone; they see beyond the border of the picture
    [('resnet18', -15.5, 0.5), ('efficientnet_b0', -15.5, 2), ('tf_efficientnet_b0', 15.5, 2)],
)
def test_how_far_off_positions_are_by_the_gradient(model, pixels, within):
    backbone = even(model, 4)
    assert backbone.offsets[0] * 32 == pytest.approx(pixels)
    x = torch.rand(1, 3, 448, 448).requires_grad_()
    (influence,) = torch.autograd.grad(backbone._run(x, norm=False)[0][0, :, 7, 7].sum(), x)
    weight = influence[0].sum(0).double()
    centre = (weight.sum(1) * (torch.arange(448) + 0.5)).sum() / weight.sum()
    assert centre.item() == pytest.approx(7.5 * 32 + pixels, abs=within)


class Against(Backbone):
    """How features differ from those of a plain picture."""

    def __init__(self, backbone):
        self.backbone = backbone

    def __call__(self, pixels):
        found, plain = self.backbone(pixels), self.backbone(torch.full_like(pixels, 0.5))
        return Features(found.map - plain.map, offset=found.offset)


@pytest.mark.parametrize('stage', [2, 3])
def test_map_of_a_blob_is_where_the_blob_is(stage):
    """In the middle of the picture, and moved by one stride: in cells of the latent grid, of 8 pixels each."""
    backbone = Against(even('resnet18', stage))
    stride = backbone.backbone.strides[0]
    places, cells = torch.arange(320) + 0.5, torch.arange(40) - 19.5
    structurer = PerceptualStructurer(backbone, FeatureNormAllocator(sigma=0.0))

    def middle(shift):
        along = torch.exp(-((places - 160 - shift) / 12).square())
        across = torch.exp(-((places - 160) / 12).square())
        picture = (0.5 + 0.4 * across[:, None] * along).expand(1, 3, 1, 320, 320)
        maps = structurer(picture, (1, 40, 40))[0, 0, 0]
        return [float((maps.sum(axis) * cells).sum() / maps.sum()) for axis in (0, 1)]

    assert middle(0) == pytest.approx([0, 0], abs=0.05)
    assert middle(stride) == pytest.approx([stride / 8, 0], abs=0.05)
    backbone.backbone.offsets = [0.0]
    off = (stride - 1) / 2 / 8
    assert middle(0) == pytest.approx([off, off], abs=0.05), 'were positions taken for the middles of their cells'


@torch.no_grad()
def test_several_stages_by_hand(build, checkpoints, pictures):
    """Unit vectors of strides 4 and 16, at stride 4: the second is bilinear between the pixels that it looks at."""
    x = pictures(64, 96)
    found = build('resnet', stages=(3, 1))(x).map
    stages = by_hand('resnet', checkpoints['resnet'])(IMAGENET(x))
    fine, coarse = (s / s.square().sum(1, keepdim=True).sqrt() for s in (stages[1], stages[3]))
    assert found.shape == (2, 8 * 4 + 16 * 4, 16, 24)
    torch.testing.assert_close(found[:, :32], fine, atol=1e-5, rtol=1e-4)
    for y, x0 in [(0, 0), (5, 9), (9, 22), (15, 23), (7, 13)]:
        place_y, place_x = y / 4, x0 / 4  # pixels 4 n of pixels 16 n
        value = 0
        for i in range(4):
            for j in range(6):
                weight = max(0, 1 - abs(min(max(place_y, 0), 3) - i)) * max(0, 1 - abs(min(max(place_x, 0), 5) - j))
                value = value + weight * coarse[:, :, i, j]
        torch.testing.assert_close(found[:, 32:, y, x0], value, atol=1e-5, rtol=1e-4)


def test_stages_weigh_alike_and_one_stage_is_left_alone(normal):
    loud, soft = 1000 * normal(2, 5, 4, 6), 0.001 * normal(2, 3, 2, 3, seed=1)
    both = joined([loud, soft], [0.0, 0.0])
    assert both.shape == (2, 8, 4, 6)
    torch.testing.assert_close(both[:, :5].norm(dim=1), torch.ones(2, 4, 6))
    assert 0.3 < both[:, 5:].norm(dim=1).mean() <= 1
    assert joined([loud], [0.0]) is loud
    dead = torch.zeros(1, 3, 2, 2)
    assert torch.equal(joined([dead, dead], [0.0, 0.0]), torch.zeros(1, 6, 2, 2))


@torch.no_grad()
def test_norm_of_sam_is_its_neck(build, checkpoints, pictures):
    """The whole encoder's output, 12 channels in place of 16."""
    x = pictures(32, 48)
    model, args, _, _ = MODELS['sam']
    whole = timm.create_model(model, **args).eval()
    whole.load_state_dict(load_file(checkpoints['sam']))
    found = build('sam', norm=True)(x).map
    assert found.shape[1] == 12
    torch.testing.assert_close(found, whole.forward_features(IMAGENET(x)), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_norm_of_a_vision_transformer(build, checkpoints, pictures):
    x = pictures(28, 42)
    model, args, _, _ = MODELS['vit']
    whole = timm.create_model(model, dynamic_img_size=True, **args).eval()
    whole.load_state_dict(load_file(checkpoints['vit']))
    tokens = whole.forward_features(IMAGENET(x))[:, 1:]
    wanted = torch.stack([tokens[:, :3].mT, tokens[:, 3:].mT], dim=2)
    torch.testing.assert_close(build('vit', norm=True)(x).map, wanted, atol=1e-4, rtol=1e-4)


def test_colours_are_timms(monkeypatch):
    """Of models whose colours differ, by timm's table."""
    for name in ('resnet18.a1_in1k', 'vit_tiny_patch16_224.augreg_in21k', 'vit_base_patch16_clip_224.openai'):
        published = timm.get_pretrained_cfg(name)
        small = {'embed_dim': 24, 'num_heads': 2, 'depth': 1} if name.startswith('vit') else {'layers': (1, 1, 1, 1)}
        prepare = TimmBackbone(name, pretrained=False, model_args=small).preparation
        assert (prepare.mean, prepare.std) == (published.mean, published.std)
    assert prepare.mean[0] == pytest.approx(0.4815, abs=1e-4)


def test_size_options(build, pictures):
    x = pictures(128, 192)
    assert build('resnet', stages=3, max_tokens=24)(x).map.shape[-2:] == (4, 6)
    assert build('resnet', stages=(2, 4), max_tokens=96)(x).map.shape[-2:] == (8, 12)
    assert build('resnet', stages=4, input_size=64)(x).map.shape[-2:] == (2, 3)
    with pytest.raises(ValueError, match='both say how large'):
        build('resnet', max_tokens=24, input_size=32)
    with pytest.raises(ValueError, match='less than the 16 feature positions'):
        build('resnet', stages=2, max_tokens=12)


@pytest.mark.parametrize('name', MODELS)
def test_half_precision_is_near_and_frozen(name, build, pictures):
    multiple = MODELS[name][2]
    x = pictures(2 * multiple, 3 * multiple)
    backbone = build(name, dtype='bfloat16')
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in backbone.model.parameters())
    found = backbone(x.requires_grad_())
    assert found.map.dtype == torch.float32
    assert not found.map.requires_grad
    exact = build(name)(x).map
    assert (found.map - exact).norm() < 0.1 * exact.norm()


def test_what_lies_behind_the_last_stage_is_dropped(build):
    sizes = [sum(p.numel() for p in build('convnext', stages=s).model.parameters()) for s in (0, 1, 2, 3)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize('change', ['lost', 'left over', 'another shape', 'damaged', 'nowhere'])
def test_checkpoint_that_does_not_fit(change, build, checkpoints, tmp_path):
    state = load_file(checkpoints['resnet'])
    if change == 'lost':
        del state['layer1.0.conv1.weight']
    elif change == 'left over':
        state['layer1.0.conv9.weight'] = torch.zeros(3)
    elif change == 'another shape':
        state['layer1.0.conv1.weight'] = torch.zeros(3)
    file = tmp_path / 'x.safetensors'
    if change == 'damaged':
        file.write_bytes(b'nothing')
    elif change != 'nowhere':
        save_file(state, file)
    with pytest.raises(ValueError, match=r'backbone\.checkpoint: .*(does not fit|is no file)'):
        build('resnet', checkpoint=str(file))


def test_original_layout_where_timm_converts_it(build, checkpoints, tmp_path, pictures):
    """SAM's own file names its encoder's layers otherwise and carries the decoder."""
    state = load_file(checkpoints['sam'])
    names = {k: 'image_encoder.' + k.replace('mlp.fc1', 'mlp.lin1').replace('mlp.fc2', 'mlp.lin2') for k in state}
    original = {names[k]: v for k, v in state.items()} | {'mask_decoder.weight': torch.zeros(2)}
    torch.save(original, tmp_path / 'sam.pth')
    x = pictures(32, 48)
    assert torch.equal(build('sam', checkpoint=str(tmp_path / 'sam.pth'))(x).map, build('sam')(x).map)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'model': 'resnet5O'}, r"timm has no model 'resnet5O'\. Did you mean 'resnet5"),
        ({'stages': 5}, r'backbone\.stages=5: the model has 5 of them'),
        ({'stages': (1, 1)}, 'each once'),
        ({'stages': ()}, 'one or several'),
        ({'norm': True}, r'backbone\.norm: timm has no final normalisation'),
        (
            {'model': 'hieradet_small', 'norm': True, 'model_args': MODELS['sam2'][1]},
            'gives no features of a picture of 64x96: .*not supported',
        ),
        ({'model': 'resnet50.a1_in99'}, r"timm cannot make 'resnet50\.a1_in99'"),
        ({'model_args': {'layres': 3}}, r'backbone\.model: timm cannot make .*layres'),
        ({'model_args': {'num_classes': 3}}, 'num_classes cannot be given here'),
        ({'model': 'hieradet_small', 'pretrained': True}, 'there are no weights of'),
        ({'model': 'gmlp_ti16_224'}, 'no features of a picture of 32x48'),
    ],
)
def test_what_cannot_be_is_said(options, words):
    with pytest.raises(ConfigError, match=words):
        BACKBONES.build({'type': 'TimmBackbone', 'model': 'resnet18', 'pretrained': False, **options})


def test_where_weights_come_from():
    told = TimmBackbone.hub_models
    assert told({}) == {'checkpoint': 'timm/resnet50.a1_in1k'}
    assert told({'model': 'sam2_hiera_large'}) == {'checkpoint': 'timm/sam2_hiera_large.fb_r1024'}
    assert told({'checkpoint': 'x.pt'}) == told({'pretrained': False}) == told({'model': 'no such'}) == {}
    assert told({'model': 'resnet50.a1_in99'}) == told({'model': 'hieradet_small'}) == {}


def test_features_that_are_not_finite_name_the_backbone(build, pictures):
    backbone = build('convnext')
    next(backbone.model.parameters()).data[0] = torch.inf
    with pytest.raises(ConfigError, match='TimmBackbone returned features that are not finite'):
        PerceptualStructurer(backbone, PCAAllocator())(pictures(64, 64)[:, :, None], (1, 2, 2))
